"""Small checkpoints with random weights of every family, saved as transformers saves them: the real loading code runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

WORDS = ("a", "an", "of", "the", "photo", "image", "close", "up", "red", "white", "cell", "cat", "dog", "car", "tree")
_SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
_TEXT = {**_SMALL, "vocab_size": 64, "intermediate_size": 64, "max_position_embeddings": 16}
_VISION = {**_SMALL, "intermediate_size": 64, "image_size": 28, "patch_size": 14}
_LABELS = {"id2label": {0: "cat", 1: "dog", 2: "crane", 3: "crane"}, "label2id": {"cat": 0, "dog": 1, "crane": 3}}


def save_family(family: str, folder: Path) -> Path:
    """Build and save one of FAMILIES; the same weights every time."""
    import torch

    torch.manual_seed(len(family))
    FAMILIES[family](folder)
    return folder


def _save(folder: Path, model: Any, processor: str, **settings: Any) -> None:
    model.eval().save_pretrained(folder)
    settings = {"image_processor_type": processor, **settings}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))


def _words(start: int, marks: dict[str, int]) -> dict[str, int]:
    return {**marks, **{word: start + number for number, word in enumerate((*WORDS, ",", ":", "-", "."))}}


def _save_words(folder: Path, **settings: Any) -> None:
    """A tokenizer of whole words: start 2, end 3; padding is not the first token of a text (OWLv2 drops those at 0)."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = _words(8, {"<pad>": 1, "<s>": 2, "</s>": 3, "<unk>": 4})
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 3)]
    )
    marks = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **marks, **settings).save_pretrained(folder)


def _classifier(kind: str, side: int = 28, **shape: Any) -> Callable[[Path], None]:
    def save(folder: Path) -> None:
        import transformers

        config = getattr(transformers, f"{kind}Config")(**shape, **_LABELS)
        model = getattr(transformers, f"{kind}ForImageClassification")(config)
        _save(folder, model, "ViTImageProcessorPil", size={"height": side, "width": side})

    return save


def _clip(folder: Path) -> None:
    from transformers import CLIPConfig, CLIPModel

    text = {**_TEXT, "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 1}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=_VISION, projection_dim=32))
    _save(
        folder,
        model,
        "CLIPImageProcessorPil",
        size={"shortest_edge": 28},
        crop_size={"height": 28, "width": 28},
    )
    _save_words(folder)


def _siglip(folder: Path) -> None:
    from transformers import SiglipConfig, SiglipModel

    text = {**_TEXT, "max_position_embeddings": 64, "projection_size": 32}
    text |= {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 1}
    model = SiglipModel(SiglipConfig(text_config=text, vision_config=_VISION))
    _save(folder, model, "SiglipImageProcessorPil", size={"height": 28, "width": 28})
    _save_words(folder, model_input_names=["input_ids"])  # as SigLIP's own: it attends to the padding


def _owl(kind: str) -> Callable[[Path], None]:
    def save(folder: Path) -> None:
        import transformers

        text = {**_TEXT, "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 1}
        vision = {**_VISION, "image_size": 64, "patch_size": 16}
        config = getattr(transformers, f"{kind}Config")(text_config=text, vision_config=vision, projection_dim=32)
        model = getattr(transformers, f"{kind}ForObjectDetection")(config)
        model.box_head.dense2.weight.data *= 0.02  # else every box is as large as the image
        _save(folder, model, f"{kind}ImageProcessorPil", size={"height": 64, "width": 64})
        _save_words(folder)

    return save


def _grounding_dino(folder: Path) -> None:
    from transformers import BertTokenizer, GroundingDinoConfig, GroundingDinoForObjectDetection, SwinConfig

    # The model takes 101, 102, 1012 and 1029 for the marks that part its phrases.
    marks = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103, "?": 1029}
    vocabulary = _words(200, marks) | {".": 1012}
    fill = {f"[unused{number}]": number for number in range(1030) if number not in set(vocabulary.values())}
    backbone = SwinConfig(
        image_size=64, embed_dim=16, depths=[1, 1, 1], num_heads=[1, 2, 2], window_size=4, out_indices=[2, 3]
    )
    text = {**_SMALL, "model_type": "bert", "vocab_size": 1030, "intermediate_size": 64, "max_position_embeddings": 64}
    config = GroundingDinoConfig(
        backbone_config=backbone,
        text_config=text,
        d_model=32,
        encoder_layers=1,
        encoder_ffn_dim=32,
        encoder_attention_heads=2,
        decoder_layers=2,
        decoder_ffn_dim=32,
        decoder_attention_heads=2,
        num_queries=20,
        num_feature_levels=3,
        max_text_len=32,
    )
    size = {"shortest_edge": 64, "longest_edge": 100}
    _save(folder, GroundingDinoForObjectDetection(config), "GroundingDinoImageProcessorPil", size=size)
    tokenizer = BertTokenizer(vocab=dict(sorted((vocabulary | fill).items(), key=lambda item: item[1])))
    tokenizer.save_pretrained(folder)


def _detr(folder: Path) -> None:
    from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig

    backbone = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", out_features=["stage2"]
    )
    config = DetrConfig(
        backbone_config=backbone,
        use_timm_backbone=False,
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        num_queries=10,
        **_LABELS,
    )
    size = {"shortest_edge": 64, "longest_edge": 100}
    _save(folder, DetrForObjectDetection(config), "DetrImageProcessorPil", size=size)


def _rt_detr(kind: str, **more: Any) -> Callable[[Path], None]:
    def save(folder: Path) -> None:
        import transformers

        sizes = {"encoder_in_channels": [16, 16, 16], "feat_strides": [8, 16, 32]}
        if kind == "DFine":
            from transformers import HGNetV2Config

            backbone: Any = HGNetV2Config(
                stem_channels=[3, 8, 8],
                stage_in_channels=[8, 16, 16, 16],
                stage_mid_channels=[8, 8, 8, 8],
                stage_out_channels=[16, 16, 16, 16],
                stage_num_blocks=[1, 1, 1, 1],
                stage_downsample=[False, True, True, True],
                stage_light_block=[False, False, True, True],
                stage_kernel_size=[3, 3, 5, 5],
                stage_numb_of_layers=[1, 1, 1, 1],
                embedding_size=8,
                hidden_sizes=[16, 16, 16, 16],
                depths=[1, 1, 1, 1],
                out_features=["stage2", "stage3", "stage4"],
            )
        else:
            backbone = transformers.RTDetrResNetConfig(
                embedding_size=8,
                hidden_sizes=[8, 16, 16, 16],
                depths=[1, 1, 1, 1],
                layer_type="basic",
                out_features=["stage2", "stage3", "stage4"],
            )
        config = getattr(transformers, f"{kind}Config")(
            backbone_config=backbone,
            encoder_hidden_dim=32,
            encoder_ffn_dim=32,
            encoder_attention_heads=2,
            d_model=32,
            num_queries=20,
            decoder_in_channels=[32, 32, 32],
            decoder_ffn_dim=32,
            decoder_layers=2,
            decoder_attention_heads=2,
            **sizes,
            **more,
            **_LABELS,
        )
        model = getattr(transformers, f"{kind}ForObjectDetection")(config)
        _save(folder, model, "RTDetrImageProcessorPil", size={"height": 64, "width": 64})

    return save


def _segformer(folder: Path) -> None:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    config = SegformerConfig(
        num_encoder_blocks=2,
        depths=[1, 1],
        sr_ratios=[2, 1],
        hidden_sizes=[16, 32],
        patch_sizes=[7, 3],
        strides=[4, 2],
        num_attention_heads=[1, 2],
        mlp_ratios=[2, 2],
        decoder_hidden_size=32,
        **_LABELS,
    )
    size = {"height": 64, "width": 64}
    _save(folder, SegformerForSemanticSegmentation(config), "SegformerImageProcessorPil", size=size)


def _sam(folder: Path) -> None:
    from transformers import SamConfig, SamModel

    vision = {
        "hidden_size": 32,
        "output_channels": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 64,
        "patch_size": 8,
        "window_size": 4,
        "global_attn_indexes": [1],
        "mlp_dim": 64,
        "num_pos_feats": 8,
    }
    prompt = {"hidden_size": 16, "image_size": 64, "patch_size": 8, "image_embedding_size": 8, "mask_input_channels": 4}
    decoder = {
        "hidden_size": 16,
        "mlp_dim": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "iou_head_hidden_dim": 16,
    }
    model = SamModel(SamConfig(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder))
    _save(
        folder,
        model,
        "SamImageProcessorPil",
        size={"longest_edge": 64},
        pad_size={"height": 64, "width": 64},
        mask_size={"longest_edge": 16},
        mask_pad_size={"height": 16, "width": 16},
    )


FAMILIES: dict[str, Callable[[Path], None]] = {
    "vit": _classifier("ViT", **_VISION),
    "dinov2": _classifier("Dinov2", **{key: value for key, value in _VISION.items() if key != "intermediate_size"}),
    "convnext": _classifier("ConvNext", 64, hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1]),
    "clip": _clip,
    "siglip": _siglip,
    "owlv2": _owl("Owlv2"),
    "owlvit": _owl("OwlViT"),
    "grounding-dino": _grounding_dino,
    "detr": _detr,
    "rt-detr": _rt_detr("RTDetr"),
    "rt-detr-v2": _rt_detr("RTDetrV2"),
    "d-fine": _rt_detr("DFine"),
    "segformer": _segformer,
    "sam": _sam,
}
