//! Servers on loopback that stand where a registry would: the real one, and ones that misbehave.
