"""Everything that is true about adapters while nothing runs: names, versions, aliases, manifests, blobs."""
