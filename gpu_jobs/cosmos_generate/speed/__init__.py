"""What makes denoising faster, each part with its own switch in `worldloop.cosmos.profiles`."""
