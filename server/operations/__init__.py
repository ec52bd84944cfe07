"""Operations that need several parts of the server: publish, move an alias, delete, merge, compare."""
