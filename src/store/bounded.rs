//! A connection on which nothing takes longer than an attempt may: a database that was cut off
//! without a word would otherwise hold whoever asks it for as long as the kernel sends again.

use sea_orm::{
    ConnectionTrait, DbBackend, DbErr, ExecResult, QueryResult, Statement,
    prelude::async_trait::async_trait,
};

use super::{Outcome, attempt};

/// `C`, with a bound on each of its statements.
#[derive(Debug)]
pub(super) struct Bounded<C>(pub(super) C);

#[async_trait]
impl<C: ConnectionTrait> ConnectionTrait for Bounded<C> {
    fn get_database_backend(&self) -> DbBackend {
        self.0.get_database_backend()
    }

    async fn execute_raw(&self, statement: Statement) -> Outcome<ExecResult> {
        attempt::<_, DbErr>(self.0.execute_raw(statement)).await
    }

    async fn execute_unprepared(&self, sql: &str) -> Outcome<ExecResult> {
        attempt::<_, DbErr>(self.0.execute_unprepared(sql)).await
    }

    async fn query_one_raw(&self, statement: Statement) -> Outcome<Option<QueryResult>> {
        attempt::<_, DbErr>(self.0.query_one_raw(statement)).await
    }

    async fn query_all_raw(&self, statement: Statement) -> Outcome<Vec<QueryResult>> {
        attempt::<_, DbErr>(self.0.query_all_raw(statement)).await
    }
}
