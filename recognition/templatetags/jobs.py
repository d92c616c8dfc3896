"""What the panel of a running job says (templates/recognition/_job.html)."""

from django import template

from recognition.jobs import report_job

register = template.Library()
register.filter("job", report_job)
