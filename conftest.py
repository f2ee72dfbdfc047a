"""Settings that every test and every notebook kernel inherits."""

import os

for key, value in {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",  # no bar among the outputs of a committed cell
}.items():
    os.environ.setdefault(key, value)


def pytest_collectstart(collector):
    """Compare the text twin of an output only: plotly JSON, SVG and HTML differ in ids from run to run."""
    if hasattr(collector, "skip_compare"):  # a notebook collected by nbval
        collector.skip_compare += ("application/vnd.plotly.v1+json", "image/svg+xml", "text/html")
