//! Where the exporter listens.
//!
//! config -> **address** -> whoever binds

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::PathBuf;

use super::Listener;
use crate::config::ExporterConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::socket::{self, SocketFile};

const OP: &str = "start the exporter";

/// `exporterConfig.address` and `port`, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// An address and a port of the host.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

/// Who listens, for messages.
#[derive(Debug, Clone, Copy)]
pub struct Keys {
    /// What is being done.
    pub op: &'static str,
    /// The key that says where.
    pub place: &'static str,
}

impl Keys {
    /// The exporter's.
    pub const EXPORTER: Self = Self {
        op: OP,
        place: "exporterConfig.port",
    };
}

impl Address {
    /// What `config` says, for the process `pid`.
    ///
    /// # Errors
    /// `Config` for an address that is none.
    pub fn new(config: &ExporterConfig, pid: u32) -> Result<Self> {
        let text = config.address.as_str();
        if let Some(path) = text.strip_prefix("unix:").filter(|path| !path.is_empty()) {
            return Ok(Self::Unix(path.replace("%p", &pid.to_string()).into()));
        }
        let ip = text.trim_start_matches('[').trim_end_matches(']');
        let ip: IpAddr = ip.parse().map_err(|_| {
            let detail =
                format!("exporterConfig.address {text:?} is neither an IP address nor unix:PATH");
            Error::new(ErrorKind::Config, OP, detail)
        })?;
        Ok(Self::Tcp(SocketAddr::new(ip, config.port)))
    }

    /// Listens there. The file of a Unix socket goes away with the second part of the result.
    ///
    /// # Errors
    /// `Busy` when somebody else listens there, `Io`; the message names the address and a way out.
    pub fn listen(&self, keys: Keys) -> Result<(Listener, Option<SocketFile>)> {
        match self {
            Self::Tcp(address) => Ok((Listener::Tcp(listen_tcp(*address, keys)?), None)),
            Self::Unix(path) => {
                let bound = socket::bind(path).map_err(|error| Error::io(keys.op, error))?;
                Ok((Listener::Unix(bound.0), Some(bound.1)))
            }
        }
    }
}

/// Listens on a TCP address.
///
/// # Errors
/// `Busy` when somebody else does, `Io`; the message names the address and a way out.
fn listen_tcp(address: SocketAddr, keys: Keys) -> Result<TcpListener> {
    TcpListener::bind(address).map_err(|error| {
        if error.kind() != std::io::ErrorKind::AddrInUse {
            return Error::io(keys.op, error).in_file(address.to_string());
        }
        let detail = format!(
            "the port ({}) is taken, perhaps by another daemon with the same settings: give each its \
             own, or a Unix socket (unix:PATH), or switch one off",
            keys.place
        );
        Error::new(ErrorKind::Busy, keys.op, detail).in_file(address.to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(address: &str) -> ExporterConfig {
        ExporterConfig {
            address: address.to_owned(),
            ..ExporterConfig::default()
        }
    }

    #[test]
    fn addresses_of_both_kinds_are_understood() {
        let parse = |text| Address::new(&config(text), 42).unwrap();
        for (text, expected) in [
            ("0.0.0.0", "0.0.0.0:9863"),
            ("127.0.0.1", "127.0.0.1:9863"),
            ("::1", "[::1]:9863"),
            ("[::]", "[::]:9863"),
        ] {
            assert_eq!(parse(text), Address::Tcp(expected.parse().unwrap()));
        }
        let unix = parse("unix:/run/obd/%p.sock");
        assert_eq!(unix, Address::Unix("/run/obd/42.sock".into()));
        for text in ["", "localhost", "unix:", "127.0.0.1:80"] {
            let error = Address::new(&config(text), 1).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{text}");
        }
    }

    #[test]
    fn a_port_in_use_is_named_with_a_way_out() {
        let first = listen_tcp("127.0.0.1:0".parse().unwrap(), Keys::EXPORTER).unwrap();
        let address = first.local_addr().unwrap();
        let error = listen_tcp(address, Keys::EXPORTER).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy);
        let text = error.to_string();
        assert!(
            text.contains(&address.to_string()) && text.contains("unix:"),
            "{text}"
        );
    }
}
