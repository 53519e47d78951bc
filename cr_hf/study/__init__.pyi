from .pictures import plot_lambda as plot_lambda
from .pictures import plot_robustness as plot_robustness
from .report import write_report as write_report
from .results import Study as Study
from .study import run_study as run_study
from .tables import study_tables as study_tables
