//! Messages: content is stored once.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "message")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: i64,
    pub sender_type: i16,
    pub sender_id: i64,
    pub sender_device_id: i64,
    pub receiver_type: i16,
    pub receiver_id: i64,
    pub to_user_ids: Vec<u8>,
    #[sea_orm(column_name = "type")]
    pub r#type: i16,
    pub content: Vec<u8>,
    pub send_time: i64,
    pub status: i16,
    pub client_message_id: Option<Vec<u8>>,
    pub digest: Vec<u8>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
