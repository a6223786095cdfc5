from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from colour_worker import Colour, answer, picture
from hypothesis import given, settings
from hypothesis import strategies as st

from datasetops.engine import Fault, Item, engine_of, open_engine
from datasetops.engine.local import LocalEngine
from datasetops.engine.sizes import BatchSize, is_out_of_memory
from datasetops.errors import DatasetOpsError, ModelError, NotFoundError
from datasetops.settings import Settings

pytestmark = pytest.mark.slow

ITEMS = [Item(f"key{number}", str(number)) for number in range(60)]


def read(uri: str) -> bytes:
    return picture(int(uri))


def run(
    worker: Any, items: list[Item], read: Callable[[str], bytes] = read, *, jobs: int = 2, batch: int | None = None
) -> dict[int, Any]:
    """Results by index, where no index comes twice."""
    found: dict[int, Any] = {}
    for index, result in LocalEngine(jobs=jobs, batch=batch).run(lambda: worker, items, read):
        assert index not in found
        found[index] = result
    return found


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "dsops-engine"]


@settings(max_examples=25)
@given(
    values=st.lists(st.integers(0, 60), max_size=60),
    jobs=st.integers(1, 3),
    lanes=st.integers(1, 3),
    batch=st.none() | st.integers(1, 9),
)
def test_every_index_comes_once_with_its_own_result(
    values: list[int], jobs: int, lanes: int, batch: int | None
) -> None:
    """Values over 50 fail in the model, 50 itself cannot be read."""
    worker = Colour(fails=tuple(range(51, 61)), lanes=lanes)

    def read_some(uri: str) -> bytes:
        if uri == "50":
            raise DatasetOpsError("The file is gone.", remedy="Bring it back.")
        return picture(int(uri))

    # Twenty failures in a row are an error of the model: what divides them here succeeds.
    items = [Item(f"key{v}", str(v)) for value in values for v in (value, 1)]
    found = run(worker, items, read_some, jobs=jobs, batch=batch)
    assert found == {
        index: Fault(item.key, "The file is gone.")
        if item.uri == "50"
        else Fault(item.key, "the model failed: ArithmeticError: no such colour")
        if int(item.uri) > 50
        else answer(int(item.uri))
        for index, item in enumerate(items)
    }
    assert not threads()


def test_images_that_cannot_be_decoded_are_faults_and_their_batch_goes_on() -> None:
    contents = [picture(7), b"", b"no image", picture(9)[:40], picture(9)]
    items = [Item(str(number), str(number)) for number in range(5)]
    found = run(Colour(), items, lambda uri: contents[int(uri)], batch=5)
    assert found[0] == answer(7)
    assert found[4] == answer(9)
    assert found[1] == Fault("1", "empty file")
    assert found[2].reason.startswith("unreadable")
    assert isinstance(found[3], Fault)


def test_a_batch_that_fails_is_tried_image_by_image() -> None:
    worker = Colour(fails=(3,))
    found = run(worker, ITEMS[:8], batch=4)
    assert worker.batches == [[0, 1, 2, 3], [0], [1], [2], [3], [4, 5, 6, 7]]
    assert [index for index, result in found.items() if isinstance(result, Fault)] == [3]


def test_a_batch_too_large_for_memory_is_halved_and_so_are_those_after_it() -> None:
    worker = Colour(fits=5)
    found = run(worker, ITEMS, batch=16)
    assert found == {index: answer(index) for index in range(60)}
    sizes = [len(batch) for batch in worker.batches]
    assert sizes[:7] == [16, 8, 4, 4, 8, 4, 4]
    assert set(sizes[7:]) == {4}


def test_torch_that_runs_out_of_memory_gets_smaller_batches() -> None:
    """The error of an accelerator cannot be had everywhere, but its class can; that of the processor is a real one."""
    import torch

    class Large(Colour):
        def __init__(self, kind: str) -> None:
            super().__init__()
            self.kind = kind

        def infer(self, prepared: list[Any]) -> list[Any]:
            found = super().infer(prepared)
            if len(prepared) > 2 and self.kind == "cuda":
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
            if len(prepared) > 2:
                torch.empty(2**60, dtype=torch.uint8)
            return found

    for kind in ("cuda", "cpu"):
        worker = Large(kind)
        found = run(worker, ITEMS[:20], batch=8)
        assert found == {index: answer(index) for index in range(20)}
        assert [len(batch) for batch in worker.batches] == [8, 4, 2, 2, 4, 2, 2, *[2] * 6]


def test_a_worker_may_ask_for_calls_of_one_size() -> None:
    """So that results do not depend on what else is in a call."""

    class Whole(Colour):
        batch: int | None = 4

    worker = Whole(fits=4)
    contents = {5: b"no image"}
    found = run(worker, ITEMS[:11], lambda uri: contents.get(int(uri)) or picture(int(uri)))
    assert {index for index, result in found.items() if isinstance(result, Fault)} == {5}
    assert worker.batches == [[0, 1, 2, 3], [4, 6, 7, 7], [8, 9, 10, 10]]
    assert [found[index] for index in (4, 7, 10)] == [answer(4), answer(7), answer(10)]
    told = Whole()
    run(told, ITEMS[:11], batch=8)
    assert [len(batch) for batch in told.batches] == [8, 8]
    free = Whole()
    free.batch = None
    run(free, ITEMS[:3])
    assert free.batches == [[0, 1, 2]]
    small = Whole(fits=2)
    assert run(small, ITEMS[:5]) == {index: answer(index) for index in range(5)}
    assert [len(batch) for batch in small.batches] == [4, 2, 2, 2]
    alone = Whole(fits=1)
    assert run(alone, ITEMS[4:5]) == {0: answer(4)}
    assert [len(batch) for batch in alone.batches] == [4, 2, 1]


def test_the_engine_of_a_repository_is_that_of_its_settings() -> None:
    local = engine_of(Settings(jobs=3), batch=5)
    assert isinstance(local, LocalEngine)
    assert (local.jobs, local.batch) == (3, 5)
    chosen = Settings(engine="ray", ray_address="host:1", ray_gpus=0.5)
    assert isinstance(engine_of(chosen, "local"), LocalEngine)
    with pytest.raises(NotFoundError, match="local"):
        engine_of(Settings(engine="locale"))
    if importlib.util.find_spec("ray"):
        for engine in (engine_of(chosen), engine_of(Settings(), "ray", address="host:1", gpus=0.5)):
            assert (engine.address, engine.gpus) == ("host:1", 0.5)  # type: ignore[attr-defined]


def test_an_image_too_large_for_memory_is_a_fault() -> None:
    worker = Colour(fits=0)
    assert set(run(worker, ITEMS[:4], batch=4).values()) == {Fault(f"key{n}", "out of memory") for n in range(4)}


def test_batches_grow_while_that_is_faster() -> None:
    class Overhead(Colour):
        """Each call takes as long, however many images it has."""

        def infer(self, prepared: list[Any]) -> list[Any]:
            time.sleep(0.004)
            return super().infer(prepared)

    worker = Overhead()
    items = [Item(str(number), str(number % 256)) for number in range(600)]
    found = run(worker, items)
    assert found == {index: answer(index % 256) for index in range(600)}
    sizes = [len(batch) for batch in worker.batches]
    assert sizes[0] == 4
    assert max(sizes) >= 16


def test_the_size_of_a_batch_follows_speed_and_memory() -> None:
    def after(seconds: dict[int, float]) -> int:
        """The size at which a model settles that needs so many seconds an image at each size."""
        size = BatchSize()
        for _ in range(50):
            size.took(size.now, size.now * seconds.get(size.now, 1.0))
        return size.now

    assert after({}) == 4
    assert after({4: 1.0, 8: 0.5, 16: 0.49}) == 8
    assert after({4: 1.0, 8: 0.5, 16: 0.25, 32: 0.4}) == 16
    assert after({4 * 2**power: 0.5**power for power in range(10)}) == 256

    size = BatchSize(32)
    size.took(32, 1.0)
    assert size.now == 32
    size.ran_out(32)
    size.ran_out(16)
    size.ran_out(12)
    assert size.now == 6
    size.ran_out(1)
    assert size.now == 1


def test_errors_that_say_that_memory_ran_out() -> None:
    import numpy as np
    import onnx
    import onnxruntime
    import torch

    with pytest.raises(RuntimeError) as torch_error:
        torch.empty(2**60, dtype=torch.uint8)
    shape = onnx.helper.make_tensor_value_info("shape", onnx.TensorProto.INT64, [1])
    out = onnx.helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, ["n"])
    node = onnx.helper.make_node("ConstantOfShape", ["shape"], ["out"])
    graph = onnx.helper.make_graph([node], "g", [shape], [out])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    with pytest.raises(Exception, match=r".") as onnx_error:
        session.run(None, {"shape": np.array([2**46])})
    assert is_out_of_memory(torch_error.value)
    assert is_out_of_memory(onnx_error.value), str(onnx_error.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(ValueError("the memory of the model is empty"))


def test_a_model_that_fails_on_everything_is_an_error_not_a_fault_of_each_image() -> None:
    with pytest.raises(ModelError, match=r"20 images in a row.*no such colour"):
        run(Colour(fails=tuple(range(60))), ITEMS)
    assert not threads()


def test_many_unreadable_images_are_no_error_of_the_model() -> None:
    found = run(Colour(), ITEMS, lambda uri: b"")
    assert found == {index: Fault(item.key, "empty file") for index, item in enumerate(ITEMS)}


def test_the_same_images_meet_in_a_call_where_the_batch_is_fixed() -> None:
    def slow_at_times(uri: str) -> bytes:
        time.sleep(0.01 if int(uri) % 7 == 0 else 0)
        return picture(int(uri))

    worker = Colour(lanes=2)
    run(worker, ITEMS[:32], slow_at_times, jobs=3, batch=8)
    assert sorted(worker.batches) == [list(range(start, start + 8)) for start in range(0, 32, 8)]


def test_a_worker_may_have_a_call_for_each_processor() -> None:
    """Two calls wait for each other: one at a time would never return."""
    import torch

    together = threading.Barrier(2, timeout=20)
    used: set[int] = set()

    class Together(Colour):
        def infer(self, prepared: list[Any]) -> list[Any]:
            together.wait()
            used.add(torch.get_num_threads())
            return super().infer(prepared)

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        found = run(Together(lanes=0), ITEMS[:40], jobs=2, batch=4)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert found == {index: answer(index) for index in range(40)}
    assert used == {1}


@pytest.mark.parametrize("stop_after", [0, 1, 10])
def test_an_iterator_closed_early_leaves_no_thread(stop_after: int) -> None:
    results = LocalEngine(jobs=3, batch=2).run(Colour, ITEMS, read)
    for _ in range(stop_after):
        next(results)
    results.close()  # type: ignore[attr-defined]
    assert not threads()


def test_a_run_goes_on_with_the_items_that_are_left() -> None:
    def stopped(items: Iterable[Any], total: int, label: str) -> Iterator[Any]:
        for done, item in enumerate(items):
            if done == 20:
                raise KeyboardInterrupt
            yield item

    kept: dict[int, Any] = {}
    results = LocalEngine(jobs=2, batch=4).run(Colour, ITEMS, read, progress=stopped)
    with pytest.raises(KeyboardInterrupt):
        kept.update(results)
    assert len(kept) == 20
    assert not threads()
    left = [index for index in range(60) if index not in kept]
    kept |= {left[index]: result for index, result in run(Colour(), [ITEMS[index] for index in left]).items()}
    assert kept == {index: answer(index) for index in range(60)}


def test_the_caller_may_be_slow_and_the_model_is_not_far_ahead() -> None:
    worker = Colour()
    items = [Item(str(number), str(number % 256)) for number in range(1500)]
    results = LocalEngine(jobs=1, batch=10).run(lambda: worker, items, read)
    next(results)
    seen = -1
    while seen != len(worker.batches):  # until it stands still
        seen = len(worker.batches)
        time.sleep(0.1)
    assert 10 * seen < 600
    assert len(list(results)) == 1499


def test_what_is_wrong_with_the_code_is_raised() -> None:
    def broken(uri: str) -> bytes:
        raise ZeroDivisionError

    class Short(Colour):
        def infer(self, prepared: list[Any]) -> list[Any]:
            return super().infer(prepared)[1:]

    def absent() -> Colour:
        raise ModelError("no such model")

    with pytest.raises(ZeroDivisionError):
        run(Colour(), ITEMS, broken)
    with pytest.raises(ValueError, match="3 results for 4 images"):
        run(Short(), ITEMS, batch=4)
    with pytest.raises(ModelError, match="no such model"):
        list(LocalEngine().run(absent, ITEMS, read))
    assert not threads()


def test_engines_are_opened_by_name() -> None:
    engine = open_engine("local", jobs=1, batch=3)
    assert dict(engine.run(Colour, ITEMS[:4], read)) == {index: answer(index) for index in range(4)}
    assert list(engine.run(Colour, [], read)) == []
    with pytest.raises(NotFoundError, match="local"):
        open_engine("locale")
    with pytest.raises(ValueError, match="at least 1"):
        open_engine("local", batch=0)
    with pytest.raises(ValueError, match="ray"):
        open_engine("local", address="somewhere")


def test_control_c_ends_a_real_run_at_once() -> None:
    code = f"""
        import signal, sys
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it in what it runs in the background
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from colour_worker import Colour, picture
        from datasetops.engine import Item
        from datasetops.engine.local import LocalEngine
        try:
            for index, _ in LocalEngine(jobs=2).run(
                Colour, [Item("k", "7")] * 10_000_000, lambda uri: picture(int(uri))
            ):
                if index == 5:
                    print("running", flush=True)
        except KeyboardInterrupt:
            print("stopped", flush=True)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    process.send_signal(signal.SIGINT)
    try:
        out, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert out == "stopped\n"
    assert process.returncode == 0
