//! Uploaded files, and uploads under way. `expires_at` is when an upload that is not finished is given
//! up; that of a finished one never comes.

use sea_orm_migration::prelude::*;

use crate::columns::{binary_texts, counted_id, kind, number, text};

#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let mut table = Table::create()
            .table("file")
            .if_not_exists()
            .col(counted_id("id"))
            .col(text(manager, "key", 32).unique_key())
            .col(number("user_id"))
            .col(kind("state"))
            .col(text(manager, "name", 255))
            .col(text(manager, "content_type", 128))
            .col(number("size"))
            .col(ColumnDef::new("sha256").var_binary(32).not_null())
            .col(text(manager, "upload_id", 1_024))
            .col(number("created_at"))
            .col(number("expires_at"))
            .to_owned();
        binary_texts(manager, &mut table);
        manager.create_table(table).await?;
        // Where the first step was made and the process died, only this one is left.
        if manager.has_index("file", "file_expires_at").await? {
            return Ok(());
        }
        let due = Index::create()
            .name("file_expires_at")
            .table("file")
            .col("expires_at")
            .to_owned();
        manager.create_index(due).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager
            .drop_table(Table::drop().table("file").to_owned())
            .await
    }
}
