//! One object while it is written: bytes gather up to a part, and parts go to the storage one after the
//! other, so that never more than one part of a file is in memory.

use bytes::Bytes;
use object_store::{
    MultipartUpload, ObjectStoreExt as _, PutPayload, PutPayloadMut,
    aws::AmazonS3,
    multipart::{MultipartStore as _, PartId},
    path::Path,
};

use super::storage::call;
use crate::{
    error::Result,
    limits::{STORAGE_CALL_MAX, STORAGE_PART_MAX},
};

/// An object that is being written. What it has stored when it is dropped stays until
/// [`Storage::remove`](super::storage::Storage::remove).
#[derive(Debug)]
pub(super) struct Writing {
    to: To,
    gathered: PutPayloadMut,
    part_bytes: usize,
}

#[derive(Debug)]
enum To {
    Folder(Box<dyn MultipartUpload>),
    S3(S3),
}

#[derive(Debug)]
struct S3 {
    client: AmazonS3,
    path: Path,
    /// Under which the parts are collected; none while all fits one part, which is then the object.
    upload_id: Option<String>,
    parts: Vec<PartId>,
}

impl Writing {
    pub(super) fn to_folder(staged: Box<dyn MultipartUpload>, part_bytes: usize) -> Self {
        Self::new(To::Folder(staged), part_bytes)
    }

    pub(super) fn to_s3(client: AmazonS3, path: Path, part_bytes: usize) -> Self {
        let to = To::S3(S3 {
            client,
            path,
            upload_id: None,
            parts: Vec::new(),
        });
        Self::new(to, part_bytes)
    }

    fn new(to: To, part_bytes: usize) -> Self {
        Self {
            to,
            gathered: PutPayloadMut::new(),
            part_bytes,
        }
    }

    /// Takes from `bytes` what the current part has room for. Not all are taken when it is then full.
    pub(super) fn gather(&mut self, bytes: &mut Bytes) {
        let room = self.part_bytes - self.gathered.content_length();
        let taken = bytes.split_to(room.min(bytes.len()));
        self.gathered.extend_from_slice(&taken);
    }

    /// Whether the part must be written before more is gathered.
    pub(super) fn is_full(&self) -> bool {
        self.gathered.content_length() == self.part_bytes
    }

    /// Has the storage collect parts, where it does that under an id of its own; that id, if it is new.
    pub(super) async fn collect(&mut self) -> Result<Option<String>> {
        match &mut self.to {
            To::S3(s3) if s3.upload_id.is_none() => {
                let created = s3.client.create_multipart(&s3.path);
                let id = call(STORAGE_CALL_MAX, created).await?;
                s3.upload_id = Some(id.clone());
                Ok(Some(id))
            }
            _ => Ok(None),
        }
    }

    /// Writes the part that has gathered.
    pub(super) async fn write_part(&mut self) -> Result<()> {
        let part = PutPayload::from(std::mem::take(&mut self.gathered));
        match &mut self.to {
            To::Folder(staged) => call(STORAGE_PART_MAX, staged.put_part(part)).await?,
            To::S3(s3) => s3.write_part(part).await?,
        }
        Ok(())
    }

    /// Writes what is left and makes it all the object, which is there as a whole or not at all.
    pub(super) async fn finish(mut self) -> Result<()> {
        if !matches!(&self.to, To::S3(s3) if s3.upload_id.is_none())
            && self.gathered.content_length() > 0
        {
            self.write_part().await?;
        }
        match self.to {
            To::Folder(mut staged) => {
                call(STORAGE_PART_MAX, staged.complete()).await?;
            }
            To::S3(s3) => s3.finish(self.gathered.into()).await?,
        }
        Ok(())
    }
}

impl S3 {
    async fn write_part(&mut self, part: PutPayload) -> Result<()> {
        let Some(id) = &self.upload_id else {
            return Err(crate::error::Error::internal("a part without an upload"));
        };
        let index = self.parts.len();
        let written = self.client.put_part(&self.path, id, index, part);
        self.parts.push(call(STORAGE_PART_MAX, written).await?);
        Ok(())
    }

    async fn finish(self, whole: PutPayload) -> Result<()> {
        match &self.upload_id {
            None => {
                call(STORAGE_PART_MAX, self.client.put(&self.path, whole)).await?;
            }
            Some(id) => {
                let finished = self.client.complete_multipart(&self.path, id, self.parts);
                call(STORAGE_PART_MAX, finished).await?;
            }
        }
        Ok(())
    }
}
