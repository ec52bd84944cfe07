"""Distillation of a prompt (context distillation, arXiv:2112.00861): the adapter gives without it the answers that the
served model gives with it.

The server draws the teacher's answers once, and the rest is supervised training on them. At the end it answers with the
best checkpoint too: how well the two agree is part of the result.
"""

from functools import partial
from threading import Event as Flag

from trainer.methods import supervised
from trainer.methods.agreement import measure
from trainer.methods.policy_client import connected, made_up
from trainer.methods.session import Session
from trainer.methods.teacher import TRAINING, VALIDATION, Teacher, file_of
from trainer.run_directory import RunDirectory
from trainer.run_spec import RunSpec


def train(run: RunDirectory, spec: RunSpec, stop: Flag) -> None:
    teacher = Teacher(run, spec, made_up if spec.is_dry else connected(), stop)
    teacher.teach()
    session = Session(run, spec, stop, training=file_of(TRAINING), validation=file_of(VALIDATION))
    if not spec.is_dry:
        session.measure = partial(measure, run, teacher)
    supervised.learn(session, spec)
