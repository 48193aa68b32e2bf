"""Requests on a worker, from their arrival to their last token: in the server process, around the engine."""
