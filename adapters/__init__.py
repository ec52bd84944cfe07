"""patchbay's lowest layer: names, versions, files and checks of adapters, without anything that serves or trains."""
