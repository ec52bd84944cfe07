"""HTTP: request and response schemas, query parameters, errors, uploads and downloads."""
