//! A server that speaks S3 and checks signatures, inside the test's process, on a folder of its own.

use std::{net::SocketAddr, path::PathBuf};

use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use im::config::Config;
use s3s::{auth::SimpleAuth, service::S3ServiceBuilder};
use s3s_fs::FileSystem;
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinSet};

use super::files::files_in;

const KEY_ID: &str = "an-id";
const SECRET: &str = "a-secret";
const BUCKET: &str = "bucket";

/// A running S3 server; it ends at drop.
pub struct S3 {
    address: SocketAddr,
    folder: TempDir,
    serving: JoinSet<()>,
}

impl S3 {
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join(BUCKET)).expect("a bucket");
        let mut s3 = Self {
            address: "127.0.0.1:0".parse().expect("an address"),
            folder,
            serving: JoinSet::new(),
        };
        s3.serve().await;
        s3
    }

    /// Serves what was stored before, on the same address.
    pub async fn serve(&mut self) {
        let files = FileSystem::new(self.folder.path()).expect("a folder");
        let mut service = S3ServiceBuilder::new(files);
        service.set_auth(SimpleAuth::from_single(KEY_ID, SECRET));
        let service = service.build();
        let listener = TcpListener::bind(self.address).await.expect("a port");
        self.address = listener.local_addr().expect("an address");
        self.serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                let service = service.clone();
                connections.spawn(async move {
                    let builder = Builder::new(TokioExecutor::new());
                    let connection = builder.serve_connection(TokioIo::new(socket), service);
                    let _cut = connection.await;
                });
            }
        });
    }

    /// Cuts all connections and takes no more.
    pub async fn stop(&mut self) {
        self.serving.shutdown().await;
    }

    /// Has a server keep its files here.
    pub fn configure(&self, config: &mut Config) {
        for (key, value) in self.settings() {
            let files = &mut config.files;
            match key {
                "files.storage" => files.storage = value,
                "files.s3_endpoint" => files.s3_endpoint = value,
                "files.s3_access_key_id" => files.s3_access_key_id = value,
                _ => files.s3_secret_access_key = value,
            }
        }
    }

    /// The same, as settings by their keys.
    pub fn settings(&self) -> [(&'static str, String); 4] {
        [
            ("files.storage", format!("s3://{BUCKET}/some/prefix")),
            ("files.s3_endpoint", format!("http://{}", self.address)),
            ("files.s3_access_key_id", KEY_ID.into()),
            ("files.s3_secret_access_key", SECRET.into()),
        ]
    }

    /// How many objects there are.
    pub fn objects(&self) -> usize {
        files_in(&self.bucket())
    }

    /// Where the object of a file is.
    pub fn object(&self, path: &str) -> PathBuf {
        let key = path.rsplit('/').next().expect("a key");
        self.bucket().join("some/prefix").join(key)
    }

    /// How many parts there are of objects that are not whole.
    pub fn parts(&self) -> usize {
        let entries = std::fs::read_dir(self.folder.path()).expect("a folder");
        let names = entries.map(|entry| entry.expect("an entry").file_name());
        names
            .filter(|name| name.to_string_lossy().starts_with(".upload_id-"))
            .count()
    }

    fn bucket(&self) -> PathBuf {
        self.folder.path().join(BUCKET)
    }
}
