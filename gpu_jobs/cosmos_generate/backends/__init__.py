"""One module a family of world models, behind the protocol of `gpu_jobs.cosmos_generate.protocol`."""
