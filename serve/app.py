"""The search service on Ray Serve: `serve run serve.app:build_app`."""

from viewfinder.service.app import application, build_app

__all__ = ["application", "build_app"]
