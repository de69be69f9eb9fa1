//! Proxies of the environment. A process's environment is its own: the client runs in another.

use std::process::Command;

use crate::server::{Reply, Server};
use crate::support::{Client, DIGEST, data, fetch_within};

const URL: &str = "http://registry.invalid/v2/a/blobs";

#[test]
fn a_proxy_of_the_environment_is_used_and_an_exception_is_heeded() {
    let data = data();
    let proxy = Server::start(move |request| Reply::of(&data, request));
    let run = |no_proxy: &str| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "proxy::fetches_by_its_environment", "--ignored"])
            .env_remove("HTTP_PROXY")
            .env_remove("NO_PROXY")
            .env("http_proxy", proxy.url("/"))
            .env("no_proxy", no_proxy);
        command.output().unwrap()
    };
    let output = run("");
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
    assert_eq!(proxy.requests()[0].target, format!("{URL}/{DIGEST}"));
    assert!(!run("registry.invalid").status.success());
    assert_eq!(proxy.requests().len(), 1);
}

#[test]
#[ignore = "the other half of the test above, which runs it in an environment of its own"]
fn fetches_by_its_environment() {
    let registry = Client::new().start().unwrap();
    let blob = registry.blob(URL, DIGEST, None).unwrap();
    let bytes = fetch_within(&blob, 10, 20, 5).unwrap();
    assert_eq!(bytes, &data()[10..20]);
}
