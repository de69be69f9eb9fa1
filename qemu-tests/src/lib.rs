//! Real virtual machines against the daemons.
