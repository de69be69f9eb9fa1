//! Debian's `docker-registry` on a free port, with its storage in a directory of its own.
//!
//! proxy, redirect server -> **registry**
//!
//! The kernel ends it when the thread that started it ends: start it from the test's own thread.

use std::fs::{self, File};
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use reqwest::blocking::{Client, RequestBuilder};
use reqwest::{Certificate, Identity, header};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::certificates::Certificates;
use crate::listener::locked;
use crate::token_server::{ISSUER, SERVICE, TokenServer};

const PROGRAM: &str = "docker-registry";

/// Time to listen after a start.
const START_TIME: Duration = Duration::from_secs(30);

/// Longest request of a push.
const PUSH_TIME: Duration = Duration::from_secs(120);

/// Other processes take ports, too.
const START_ATTEMPTS: u32 = 5;

/// Who may use a registry.
#[derive(Debug, Default)]
pub enum RegistryAuth {
    /// Anybody.
    #[default]
    Open,
    /// Who knows this name and password.
    Basic {
        /// Name.
        user: String,
        /// Password.
        password: String,
    },
    /// Who has a token for the repository.
    Bearer(TokenServer),
}

/// What kind of registry is wanted. The default is plain HTTP, open to anybody.
#[derive(Debug, Default)]
pub struct RegistryOptions {
    /// Speak TLS with these.
    pub tls: Option<Certificates>,
    /// And ask clients for a certificate.
    pub client_certificates: bool,
    /// Who may use it.
    pub auth: RegistryAuth,
}

/// A registry that runs, or is between [`DockerRegistry::kill`] and [`DockerRegistry::start_again`].
#[derive(Debug)]
pub struct DockerRegistry {
    options: RegistryOptions,
    dir: TempDir,
    port: u16,
    child: Mutex<Option<Child>>,
    client: Client,
}

impl DockerRegistry {
    /// A plain one, open to anybody.
    ///
    /// # Errors
    /// As [`DockerRegistry::start`].
    pub fn plain() -> Result<Self> {
        Self::start(RegistryOptions::default())
    }

    /// Starts one and waits until it answers.
    ///
    /// # Errors
    /// When Debian's package is not installed or the registry does not start.
    pub fn start(options: RegistryOptions) -> Result<Self> {
        let mut registry = Self {
            client: client(&options)?,
            options,
            dir: tempfile::Builder::new().prefix("obd-registry.").tempdir()?,
            port: 0,
            child: Mutex::new(None),
        };
        for _ in 1..START_ATTEMPTS {
            registry.port = free_port()?;
            match registry.start_again() {
                Err(error) if format!("{error:#}").contains("address already in use") => {}
                other => return other.map(|()| registry),
            }
        }
        bail!("{PROGRAM}: every port it was given was taken");
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    /// Its URL, without a path.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = match self.options.tls {
            Some(_) => "https",
            None => "http",
        };
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    /// The prefix of a repository's blobs, as `repoBlobUrl` wants it.
    #[must_use]
    pub fn repo_blob_url(&self, repo: &str) -> String {
        format!("{}/v2/{repo}/blobs", self.url())
    }

    /// The certificates it was started with.
    #[must_use]
    pub fn certificates(&self) -> Option<&Certificates> {
        self.options.tls.as_ref()
    }

    /// The token server it was started with.
    #[must_use]
    pub fn tokens(&self) -> Option<&TokenServer> {
        match &self.options.auth {
            RegistryAuth::Bearer(tokens) => Some(tokens),
            _ => None,
        }
    }

    /// Everything it has logged, its access log included.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Its process id, while it runs.
    #[must_use]
    pub fn process_id(&self) -> Option<u32> {
        locked(&self.child).as_ref().map(Child::id)
    }

    /// Kills it with SIGKILL.
    pub fn kill(&self) {
        if let Some(mut child) = locked(&self.child).take() {
            // Both fail only for a child that has ended by itself.
            drop(child.kill());
            drop(child.wait());
        }
    }

    /// Starts it on the same port and storage, and waits until it answers.
    ///
    /// # Errors
    /// When it ends or does not listen in time.
    pub fn start_again(&self) -> Result<()> {
        self.kill();
        let config = self.dir.path().join("config.yml");
        // JSON is YAML, too.
        fs::write(&config, self.config()?.to_string())?;
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.dir.path().join("log"))?;
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--", PROGRAM, "serve"])
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("run setpriv")?;
        *locked(&self.child) = Some(child);
        self.wait_until_it_listens()
    }

    fn wait_until_it_listens(&self) -> Result<()> {
        let deadline = Instant::now() + START_TIME;
        while TcpStream::connect(self.address()).is_err() {
            if let Some(child) = locked(&self.child).as_mut()
                && let Some(status) = child.try_wait()?
            {
                let log = self.log();
                ensure!(
                    !log.contains("failed to execute"),
                    "{PROGRAM} is missing: install docker-registry (scripts/install-deps)"
                );
                bail!("{PROGRAM} ended with {status}: {}", log.trim_end());
            }
            ensure!(Instant::now() < deadline, "{PROGRAM} does not listen");
            // Nothing tells when a foreign process listens.
            let nobody = Mutex::new(());
            drop(Condvar::new().wait_timeout(locked(&nobody), Duration::from_millis(10)));
        }
        Ok(())
    }

    fn config(&self) -> Result<Value> {
        let mut http = json!({
            "addr": self.address().to_string(),
            "secret": "not one",
            // Connections that no server has closed yet do not keep it from starting again.
            "net": "tcp",
        });
        if let (Some(tls), Some(http)) = (&self.options.tls, http.as_object_mut()) {
            let mut files = json!({ "certificate": tls.server(), "key": tls.server_key() });
            if let (true, Some(files)) = (self.options.client_certificates, files.as_object_mut()) {
                files.insert("clientcas".to_owned(), json!([tls.ca()]));
            }
            http.insert("tls".to_owned(), files);
        }
        let mut config = json!({
            "version": "0.1",
            "log": { "level": "info", "accesslog": { "disabled": false } },
            "storage": { "filesystem": { "rootdirectory": self.dir.path().join("storage") } },
            "http": http,
        });
        if let (Some(auth), Some(config)) = (self.auth_config()?, config.as_object_mut()) {
            config.insert("auth".to_owned(), auth);
        }
        Ok(config)
    }

    fn auth_config(&self) -> Result<Option<Value>> {
        match &self.options.auth {
            RegistryAuth::Open => Ok(None),
            RegistryAuth::Basic { user, password } => {
                let path = self.dir.path().join("htpasswd");
                write_passwords(&path, user, password)?;
                Ok(Some(
                    json!({ "htpasswd": { "realm": "obd test registry", "path": path } }),
                ))
            }
            RegistryAuth::Bearer(tokens) => Ok(Some(json!({ "token": {
                "realm": tokens.realm(), "service": SERVICE, "issuer": ISSUER,
                "rootcertbundle": tokens.certificate(),
            } }))),
        }
    }

    /// Pushes a blob; returns its digest.
    ///
    /// # Errors
    /// What the registry answered.
    pub fn push_blob(&self, repo: &str, bytes: &[u8]) -> Result<String> {
        let digest = format!("sha256:{}", hex(&Sha256::digest(bytes)));
        self.push(repo, &digest, bytes.to_vec().into())?;
        Ok(digest)
    }

    /// Pushes a file without holding it in memory; returns its digest.
    ///
    /// # Errors
    /// When it cannot be read; what the registry answered.
    pub fn push_file(&self, repo: &str, path: &Path) -> Result<String> {
        let open = || File::open(path).with_context(|| format!("open {}", path.display()));
        let digest = digest_of(open()?)?;
        self.push(repo, &digest, open()?.into())?;
        Ok(digest)
    }

    fn push(&self, repo: &str, digest: &str, body: reqwest::blocking::Body) -> Result<()> {
        let uploads = format!("{}/v2/{repo}/blobs/uploads/", self.url());
        let begun = self.authorized(self.client.post(uploads), repo)?.send()?;
        ensure!(begun.status().as_u16() == 202, "{}", describe(begun));
        let location = begun.headers().get(header::LOCATION);
        let location = location.context("a location to upload to")?.to_str()?;
        let separator = if location.contains('?') { '&' } else { '?' };
        let whole = self
            .client
            .put(format!("{location}{separator}digest={digest}"))
            .header(header::CONTENT_TYPE, "application/octet-stream")
            .body(body);
        let ended = self.authorized(whole, repo)?.send()?;
        ensure!(ended.status().as_u16() == 201, "{}", describe(ended));
        Ok(())
    }

    fn authorized(&self, request: RequestBuilder, repo: &str) -> Result<RequestBuilder> {
        Ok(match &self.options.auth {
            RegistryAuth::Open => request,
            RegistryAuth::Basic { user, password } => request.basic_auth(user, Some(password)),
            RegistryAuth::Bearer(tokens) => {
                request.bearer_auth(tokens.issue(&format!("repository:{repo}:pull,push"))?)
            }
        })
    }

    /// Where the registry keeps a blob, for tests that damage it.
    #[must_use]
    pub fn blob_file(&self, digest: &str) -> PathBuf {
        let hex = digest.trim_start_matches("sha256:");
        let prefix: String = hex.chars().take(2).collect();
        let blobs = "storage/docker/registry/v2/blobs/sha256";
        self.dir
            .path()
            .join(blobs)
            .join(prefix)
            .join(hex)
            .join("data")
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        self.kill();
    }
}

fn client(options: &RegistryOptions) -> Result<Client> {
    let mut builder = Client::builder().no_proxy().timeout(PUSH_TIME);
    if let Some(tls) = &options.tls {
        let ca = Certificate::from_pem(&fs::read(tls.ca())?)?;
        builder = builder.tls_certs_only([ca]);
        if options.client_certificates {
            let pem = [fs::read(tls.client())?, fs::read(tls.client_key())?].concat();
            builder = builder.identity(Identity::from_pem(&pem)?);
        }
    }
    Ok(builder.build()?)
}

fn write_passwords(path: &Path, user: &str, password: &str) -> Result<()> {
    let output = Command::new("htpasswd")
        .args(["-Bbn", user, password])
        .output()
        .map_err(|error| {
            anyhow!("htpasswd: {error}: install apache2-utils (scripts/install-deps)")
        })?;
    ensure!(output.status.success(), "htpasswd: {}", output.status);
    Ok(fs::write(path, output.stdout)?)
}

fn describe(response: reqwest::blocking::Response) -> String {
    let status = response.status();
    let url = response.url().clone();
    format!("{url}: {status}: {}", response.text().unwrap_or_default())
}

fn free_port() -> Result<u16> {
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(socket.local_addr()?.port())
}

fn digest_of(mut file: File) -> Result<String> {
    let mut hash = Sha256::new();
    let mut buf = vec![0; 1 << 20];
    loop {
        let len = file.read(&mut buf)?;
        match buf.get(..len) {
            Some(piece) if len > 0 => hash.update(piece),
            _ => return Ok(format!("sha256:{}", hex(&hash.finalize()))),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
