//! Who is in which group, in what role, and from which position of a large group's timeline on.

use sea_orm_migration::prelude::*;

use crate::columns::{binary_texts, clustered, kind, number, text};

#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let mut table = Table::create()
            .table("group_member")
            .col(number("group_id"))
            .col(number("user_id"))
            .col(kind("member_type"))
            .col(text(manager, "remarks", 512))
            .col(text(manager, "extra", 2_048))
            // Null in a small group, which has no timeline.
            .col(ColumnDef::new("join_seq").big_integer())
            .col(number("created_at"))
            .col(number("updated_at"))
            .primary_key(Index::create().col("group_id").col("user_id"))
            .to_owned();
        clustered(manager, &mut table);
        binary_texts(manager, &mut table);
        manager.create_table(table).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager
            .drop_table(Table::drop().table("group_member").to_owned())
            .await
    }
}
