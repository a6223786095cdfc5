"""Answers of a model held against what people said: numbers for a report, metrics for slices, errors one by one."""

from __future__ import annotations

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from datasetops.evaluation.answers import Answers
from datasetops.evaluation.judge_classes import judge_one_class, judge_several_classes
from datasetops.evaluation.judge_regions import judge_regions
from datasetops.evaluation.judge_texts import judge_texts
from datasetops.evaluation.judged import Judged
from datasetops.evaluation.regions import Ints
from datasetops.preannotate.human import BY_PEOPLE
from datasetops.schema import LabelSchema


def judge(
    answers: Answers, samples: pd.DataFrame, annotations: pa.Table, schema: LabelSchema, groups: Ints, *, score: float
) -> Judged:
    """Hold answers about N samples against annotations that count and that people gave.

    `groups` (N,): samples that belong together. `score`: from which on a region counts in rates and in the list of
    errors; average precision looks at all of them.
    """
    by_people = pc.is_in(annotations["source"], pa.array(BY_PEOPLE))
    annotations = annotations.filter(
        pc.and_(by_people, pc.is_in(annotations["sample_id"], pa.array(samples["sample_id"].tolist(), pa.string())))
    )
    if answers.kind == "classification":
        several = schema.multi_label
        return (judge_several_classes if several else judge_one_class)(answers, samples, annotations, schema, groups)
    if answers.kind == "text":
        return judge_texts(answers, samples, annotations)
    return judge_regions(answers, samples, annotations, schema, groups, score)
