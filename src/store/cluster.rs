//! The one row that all instances on a database share.

use sea_orm::{ActiveValue::Set, EntityTrait, sea_query::OnConflict};

use super::{Conn, Failure, Outcome, Store, entity::cluster};
use crate::error::Result;

const ROW: i16 = 1;

/// Creates the row with a random epoch and a random key for verification codes, once.
pub(super) async fn ensure(store: &Store) -> Result<()> {
    let row = cluster::ActiveModel {
        id: Set(ROW),
        epoch: Set(random_epoch()),
        code_key: Set(rand::random::<[u8; 32]>().to_vec()),
    };
    let tx = store.begin().await?;
    cluster::Entity::insert(row)
        .on_conflict(
            OnConflict::column(cluster::Column::Id)
                .do_nothing_on([cluster::Column::Id])
                .to_owned(),
        )
        .exec_without_returning(tx.conn())
        .await?;
    tx.commit().await
}

/// The database's epoch: it changes when the data was restored from a backup.
///
/// # Errors
/// [`Code::TryAgain`](crate::error::Code::TryAgain) when the database does not answer.
pub async fn epoch(conn: &impl Conn) -> Result<i64> {
    Ok(epoch_raw(conn).await?)
}

/// As [`epoch`], for those who handle each kind of failure themselves.
pub(crate) async fn epoch_raw(conn: &impl Conn) -> Outcome<i64> {
    Ok(row(conn).await?.epoch)
}

/// The key under which verification codes are hashed.
///
/// # Errors
/// [`Code::TryAgain`](crate::error::Code::TryAgain) when the database does not answer.
pub async fn code_key(conn: &impl Conn) -> Result<Vec<u8>> {
    Ok(row(conn).await?.code_key)
}

/// Gives the database a new epoch and returns it; cursors from before it are then reset.
///
/// # Errors
/// [`Code::TryAgain`](crate::error::Code::TryAgain) when the database does not answer.
pub async fn renew_epoch(store: &Store) -> Result<i64> {
    let epoch = random_epoch();
    let tx = store.begin().await?;
    let row = cluster::ActiveModel {
        id: Set(ROW),
        epoch: Set(epoch),
        ..Default::default()
    };
    cluster::Entity::update(row).exec(tx.conn()).await?;
    tx.commit().await?;
    Ok(epoch)
}

async fn row(conn: &impl Conn) -> Outcome<cluster::Model> {
    let row = cluster::Entity::find_by_id(ROW).one(conn).await?;
    row.ok_or_else(|| Failure::RecordNotFound("the row of the table `cluster`".into()))
}

/// Positive and never 0, which on the wire means "unknown".
fn random_epoch() -> i64 {
    rand::random_range(1..=i64::MAX)
}
