//! Commands as initiators send them.
