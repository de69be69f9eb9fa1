//! ZFile: a seekable compressed file.
