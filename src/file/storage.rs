//! Where the bytes of files are: a folder, or a bucket of something that speaks S3. Nothing here knows
//! who may do what, or of the database.
//!
//! Invariant: whatever is stored for a key, finished or not, is gone once [`Storage::remove`] has
//! returned and nothing of that key is on its way.

use std::{fs, io::ErrorKind, ops::Range, path::Path as FilePath, time::Duration};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use object_store::{
    ClientOptions, Error as StorageError, GetOptions, ObjectStore, ObjectStoreExt as _,
    RetryConfig,
    aws::{AmazonS3, AmazonS3Builder},
    local::LocalFileSystem,
    multipart::MultipartStore as _,
    path::Path,
    signer::{SignedUrlOptions, Signer as _},
};

use super::{key::Key, writing::Writing};
use crate::{
    config,
    error::{Error, Result, ResultExt as _},
    limits::{
        FOLDER_PART_BYTES, S3_PART_BYTES, S3_PARTS_MAX, STORAGE_CALL_MAX, STORAGE_CONNECT_MAX,
        STORAGE_PART_MAX, STORAGE_SILENCE_MAX,
    },
};

/// A storage of files; cloning it is cheap.
#[derive(Clone, Debug)]
pub(super) struct Storage {
    pub(super) place: Place,
    /// What the names of its objects begin with.
    prefix: Path,
}

#[derive(Clone, Debug)]
pub(super) enum Place {
    Folder(LocalFileSystem),
    S3(AmazonS3),
}

impl Storage {
    /// Opens the storage that `config` names, and makes the folder if it is not there.
    ///
    /// # Errors
    /// An internal error that names the key at fault.
    pub(super) fn open(config: &config::Files) -> Result<Self> {
        match config.storage.strip_prefix("s3://") {
            Some(bucket) => Self::bucket(bucket, config),
            None => Self::folder(FilePath::new(&config.storage)),
        }
    }

    fn folder(path: &FilePath) -> Result<Self> {
        fs::create_dir_all(path).internal("files.storage: make the folder")?;
        let folder = LocalFileSystem::new_with_prefix(path).internal("files.storage")?;
        Ok(Self {
            place: Place::Folder(folder.with_fsync(true)),
            prefix: Path::default(),
        })
    }

    fn bucket(bucket: &str, config: &config::Files) -> Result<Self> {
        let largest = (S3_PARTS_MAX * S3_PART_BYTES) as u64 / (1024 * 1024);
        if config.size_max_mib > largest {
            return Err(Error::internal(format!(
                "files.size_max_mib: at most {largest} with s3://"
            )));
        }
        let (bucket, prefix) = bucket.split_once('/').unwrap_or((bucket, ""));
        let options = ClientOptions::new()
            .with_allow_http(config.s3_endpoint.starts_with("http://"))
            .with_connect_timeout(STORAGE_CONNECT_MAX)
            // A slow reader may take as long as it likes; silence of the storage is bounded.
            .with_timeout_disabled()
            .with_read_timeout(STORAGE_SILENCE_MAX);
        let retry = RetryConfig {
            max_retries: 2,
            retry_timeout: STORAGE_CALL_MAX,
            ..RetryConfig::default()
        };
        let mut s3 = AmazonS3Builder::new()
            .with_bucket_name(bucket)
            .with_region(&config.s3_region)
            .with_client_options(options)
            .with_retry(retry);
        if !config.s3_endpoint.is_empty() {
            s3 = s3.with_endpoint(&config.s3_endpoint);
        }
        if !config.s3_access_key_id.is_empty() {
            s3 = s3
                .with_access_key_id(&config.s3_access_key_id)
                .with_secret_access_key(&config.s3_secret_access_key);
        }
        Ok(Self {
            place: Place::S3(s3.build().internal("files.storage")?),
            prefix: Path::parse(prefix).internal("files.storage")?,
        })
    }

    /// Where the object of a key is.
    pub(super) fn path(&self, key: Key) -> Path {
        self.prefix.clone().join(key.to_string())
    }

    fn objects(&self) -> &dyn ObjectStore {
        match &self.place {
            Place::Folder(folder) => folder,
            Place::S3(s3) => s3,
        }
    }

    /// Begins to write the object of a key that has none.
    pub(super) async fn write(&self, key: Key) -> Result<Writing> {
        let path = self.path(key);
        match &self.place {
            Place::Folder(folder) => {
                let staged = call(STORAGE_CALL_MAX, folder.put_multipart(&path)).await?;
                Ok(Writing::to_folder(staged, FOLDER_PART_BYTES))
            }
            Place::S3(s3) => Ok(Writing::to_s3(s3.clone(), path, S3_PART_BYTES)),
        }
    }

    /// The bytes of an object, read as they are taken; `None` when there is no such object.
    pub(super) async fn read(
        &self,
        key: Key,
        range: Range<u64>,
    ) -> Result<Option<impl Stream<Item = Result<Bytes>> + Send + 'static>> {
        if range.is_empty() {
            return Ok(Some(futures_util::stream::empty().left_stream()));
        }
        let options = GetOptions::new().with_range(Some(range));
        let path = self.path(key);
        match call(STORAGE_CALL_MAX, self.objects().get_opts(&path, options)).await {
            Ok(object) => {
                let bytes = object.into_stream();
                Ok(Some(
                    bytes.map(|bytes| bytes.map_err(Error::from)).right_stream(),
                ))
            }
            Err(StorageError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The size of an object; `None` when there is no such object.
    pub(super) async fn size(&self, key: Key) -> Result<Option<u64>> {
        match call(STORAGE_CALL_MAX, self.objects().head(&self.path(key))).await {
            Ok(object) => Ok(Some(object.size)),
            Err(StorageError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes the object of a key and what was written of it, under `upload_id` if that is not empty.
    /// Fine when there is nothing.
    pub(super) async fn remove(&self, key: Key, upload_id: &str) -> Result<()> {
        let path = self.path(key);
        match &self.place {
            Place::Folder(folder) => {
                // The name under which `object_store` writes what is not finished; nobody else
                // writes to this key, so it is always the first one.
                let mut staged = folder.path_to_filesystem(&path)?.into_os_string();
                staged.push("#1");
                let removal = move || match fs::remove_file(staged) {
                    Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
                    _ => Ok(()),
                };
                let removed = tokio::task::spawn_blocking(removal).await;
                removed
                    .internal("remove a file")?
                    .map_err(|error| unreachable(&error))?;
            }
            // Before the object: an upload that is being finished is one or the other.
            Place::S3(s3) if !upload_id.is_empty() => {
                let upload_id = upload_id.to_owned();
                let aborted = s3.abort_multipart(&path, &upload_id);
                absent_is_fine(call(STORAGE_CALL_MAX, aborted).await)?;
            }
            Place::S3(_) => {}
        }
        absent_is_fine(call(STORAGE_CALL_MAX, self.objects().delete(&path)).await)
    }

    /// A URL that lets whoever has it `PUT` the object of a key until `expires_in` has passed, with
    /// exactly `headers`; `None` where the storage cannot.
    pub(super) async fn sign_put(
        &self,
        key: Key,
        headers: &[(&'static str, String)],
        expires_in: Duration,
    ) -> Result<Option<String>> {
        let Place::S3(s3) = &self.place else {
            return Ok(None);
        };
        let mut signed = HeaderMap::new();
        for (name, value) in headers {
            let value = HeaderValue::from_str(value).internal("sign an upload")?;
            signed.insert(HeaderName::from_static(name), value);
        }
        let mut options = SignedUrlOptions::default();
        options.signed_headers = signed;
        let path = self.path(key);
        let url = s3.signed_url_opts(Method::PUT, &path, expires_in, &options);
        Ok(Some(call(STORAGE_CALL_MAX, url).await?.to_string()))
    }
}

/// Waits for the storage at most `max`.
pub(super) async fn call<T>(
    max: Duration,
    work: impl Future<Output = Result<T, StorageError>>,
) -> Result<T, StorageError> {
    const _: () = assert!(STORAGE_CALL_MAX.as_millis() < STORAGE_PART_MAX.as_millis());
    tokio::time::timeout(max, work)
        .await
        .unwrap_or_else(|late| {
            Err(StorageError::Generic {
                store: "storage",
                source: late.into(),
            })
        })
}

fn absent_is_fine(removed: Result<(), StorageError>) -> Result<()> {
    match removed {
        Ok(()) | Err(StorageError::NotFound { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

impl From<StorageError> for Error {
    #[track_caller]
    fn from(error: StorageError) -> Self {
        match &error {
            // It is not there, or slow, or full: that may pass.
            StorageError::Generic { .. } | StorageError::JoinError { .. } => unreachable(&error),
            _ => Self::wrap("use the file storage", error),
        }
    }
}

/// Logged where it is met: the answer does not say what is wrong, and an operator must know.
fn unreachable(error: &(dyn std::error::Error + 'static)) -> Error {
    tracing::warn!(error, "the file storage does not do its work");
    Error::try_again("the file storage does not answer, try again later")
}
