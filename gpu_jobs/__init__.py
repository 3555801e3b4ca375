"""Programs that Dagster starts through Pipes and never imports; one folder a job."""
