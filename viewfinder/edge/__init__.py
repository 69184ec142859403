"""The embedded vector store: collections, aliases and metadata in a directory, on Qdrant's engine (`qdrant-edge-py`).

It speaks the JSON of Qdrant's REST interface: `engine.Engine.answer` takes the method, path and body of a request and
returns its "result".
"""
