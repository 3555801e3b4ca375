"""The nouns of the graph."""

import warnings

from dagster import BetaWarning, PreviewWarning

# Partitioned checks and the wave mapping are marked as unsettled in Dagster; said once, in the docs.
warnings.filterwarnings("ignore", category=PreviewWarning, message=".*partitions_def.*")
warnings.filterwarnings("ignore", category=BetaWarning, message=".*MultiToSingleDimension.*")
