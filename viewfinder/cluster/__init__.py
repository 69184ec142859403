"""Everything that runs on Ray Data: session, pipeline, resources, executor, metrics."""
