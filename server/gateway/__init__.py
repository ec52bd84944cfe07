"""A request's way in: authenticate, admit, resolve, make resident, hand to the engine, meter. One file a step."""
