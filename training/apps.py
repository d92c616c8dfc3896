"""The training application."""

from django.apps import AppConfig


class TrainingConfig(AppConfig):
    name = "training"
