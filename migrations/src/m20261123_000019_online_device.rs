//! Devices that are signed in on a long connection, written where somebody is told of it.

use sea_orm_migration::prelude::*;

use crate::columns::{assigned_id, number};

#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let table = Table::create()
            .table("online_device")
            .if_not_exists()
            .col(assigned_id(manager, "device_id"))
            .col(number("user_id"))
            .col(number("instance_id"))
            .col(number("generation"))
            .to_owned();
        manager.create_table(table).await?;
        for (name, column) in [
            ("online_device_user_id", "user_id"),
            ("online_device_instance_id", "instance_id"),
        ] {
            // Where a step was made and the process died, only those behind it are left.
            if manager.has_index("online_device", name).await? {
                continue;
            }
            let index = Index::create()
                .name(name)
                .table("online_device")
                .col(column)
                .col("device_id")
                .to_owned();
            manager.create_index(index).await?;
        }
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager
            .drop_table(Table::drop().table("online_device").to_owned())
            .await
    }
}
