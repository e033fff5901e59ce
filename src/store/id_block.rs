//! Ids handed out in blocks, so that giving one costs no round trip. Ids of a block that a crash
//! leaves unused are lost, which harms nobody: ids are unique, not contiguous.

use std::ops::Range;

use sea_orm::{
    ConnectionTrait, EntityTrait, ExprTrait,
    sea_query::{Expr, OnConflict, Query},
};

use super::{Outcome, Store, entity::id_block};

/// Takes the next `size` ids of the kind `name`, in a transaction of its own.
///
/// # Errors
/// What the database answers.
pub(crate) async fn take(store: &Store, name: &str, size: i64) -> Outcome<Range<i64>> {
    let tx = store.begin_raw().await?;
    let mut upsert = Query::insert();
    upsert
        .into_table(id_block::Entity)
        .columns([id_block::Column::Name, id_block::Column::Next])
        .values_panic([name.into(), (1 + size).into()]);
    let next = Expr::col((id_block::Entity, id_block::Column::Next));
    upsert.on_conflict(
        OnConflict::column(id_block::Column::Name)
            .value(id_block::Column::Next, next.add(size))
            .to_owned(),
    );
    tx.conn().execute(&upsert).await?;
    let row = id_block::Entity::find_by_id(name)
        .one(tx.conn())
        .await?
        .ok_or_else(|| super::Failure::RecordNotFound(format!("id_block {name}")))?;
    tx.commit_raw().await?;
    Ok(row.next - size..row.next)
}
