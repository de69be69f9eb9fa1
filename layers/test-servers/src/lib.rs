//! Servers on loopback that stand where a registry would: the real one, and ones that misbehave.
//!
//! ```text
//! client -> Proxy (faults, shaping, token gate) -> RedirectServer -> DockerRegistry
//!        -> TokenServer
//! ```
//!
//! Every server but the registry is made of plain threads, speaks HTTP/1.1 and may stand alone. All
//! end when dropped, with every connection they have. Nothing listens on anything but 127.0.0.1.
//!
//! | module | what |
//! |---|---|
//! | [`docker_registry`] | Debian's `docker-registry`: plain, TLS, client certificates, passwords, tokens |
//! | [`proxy`] | counts, spoils, slows down and guards what goes through it |
//! | [`token_server`] | issues bearer tokens |
//! | [`redirect_server`] | answers with signed URLs that lead elsewhere and expire |
//! | [`certificates`] | a private CA and what it signs |

pub mod certificates;
pub mod docker_registry;
mod http;
mod listener;
pub mod proxy;
pub mod redirect_server;
pub mod token_server;

pub use certificates::Certificates;
pub use docker_registry::{DockerRegistry, RegistryAuth, RegistryOptions};
pub use proxy::{Exchange, Fault, Faults, Proxy, Shape};
pub use redirect_server::{ExpiryStyle, RedirectServer};
pub use token_server::{TokenOptions, TokenServer};
