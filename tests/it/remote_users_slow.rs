//! A business server that takes its time is not waited for where one can do without its answer, and
//! the answer is not lost. Its answers come when the test lets them.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering::SeqCst},
};

use im::pb::{
    AuthReq, AuthResp, GetUserReq, GetUserResp, GetUsersReq, GetUsersResp, PushToUsersReq, User,
    user_int_server::{UserInt, UserIntServer},
};
use tokio::{net::TcpListener, sync::Semaphore};
use tonic::{Request, Response, Status, transport::server::TcpIncoming};

use crate::support::{
    Server, Transport,
    errors::{TRY_AGAIN_LATER, assert_fails},
    internal::command,
    messages::text,
    wait::eventually,
};

const FAILED: &str = "im_business_lookups_total{result=\"failed\"}";

/// Users who hold their own profiles back: user 1 while he is held, and those above 4,500 while they
/// are away.
#[derive(Clone, Default)]
struct Users(Arc<State>);

struct State {
    nickname: Mutex<&'static str>,
    is_held: AtomicBool,
    answers: Semaphore,
    are_away: AtomicBool,
    asked: Mutex<Vec<i64>>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            nickname: Mutex::new("Ada"),
            is_held: AtomicBool::new(false),
            answers: Semaphore::new(0),
            are_away: AtomicBool::new(false),
            asked: Mutex::default(),
        }
    }
}

impl Users {
    async fn serve(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let server = tonic::transport::Server::builder()
            .add_service(UserIntServer::new(self.clone()))
            .serve_with_incoming(TcpIncoming::from(listener));
        tokio::spawn(server);
        format!("http://{address}")
    }

    fn times_asked(&self, user_id: i64) -> usize {
        let asked = self.0.asked.lock().expect("no panic under the lock");
        asked.iter().filter(|asked| **asked == user_id).count()
    }
}

#[tonic::async_trait]
impl UserInt for Users {
    async fn auth(&self, _: Request<AuthReq>) -> Result<Response<AuthResp>, Status> {
        Ok(Response::new(AuthResp {}))
    }

    /// The user's id is left out: who asks knows it.
    async fn get_user(
        &self,
        request: Request<GetUserReq>,
    ) -> Result<Response<GetUserResp>, Status> {
        if request.into_inner().user_id == 1 && self.0.is_held.load(SeqCst) {
            self.0.answers.acquire().await.expect("it is open").forget();
        }
        let nickname = *self.0.nickname.lock().expect("no panic under the lock");
        let user = User {
            nickname: nickname.into(),
            ..Default::default()
        };
        Ok(Response::new(GetUserResp { user: Some(user) }))
    }

    async fn get_users(
        &self,
        request: Request<GetUsersReq>,
    ) -> Result<Response<GetUsersResp>, Status> {
        let ids: Vec<i64> = request.into_inner().user_ids.into_keys().collect();
        if self.0.are_away.load(SeqCst) && ids.iter().any(|id| *id > 4_500) {
            return Err(Status::unavailable("on purpose"));
        }
        let mut asked = self.0.asked.lock().expect("no panic under the lock");
        asked.extend(&ids);
        let users = ids.into_iter().map(|id| (id, User::default()));
        Ok(Response::new(GetUsersResp {
            users: users.collect(),
        }))
    }
}

async fn start(users: &Users, profile_cache_s: u64) -> Server {
    let endpoint = users.serve().await;
    Server::with(|config| {
        config.users.provider = im::config::UserProvider::Remote;
        config.users.endpoint = endpoint;
        config.users.auth_cache_s = 3_600;
        config.users.profile_cache_s = profile_cache_s;
    })
    .await
}

#[tokio::test]
async fn an_answer_that_nobody_waited_for_counts_all_the_same() {
    let users = Users::default();
    let server = start(&users, 1).await;
    let (ada, bob) = (server.device_of(1).await, server.device_of(2).await);
    let mut to_bob = server.connect(Transport::Tcp, &bob).await;
    server.send(&ada, text(2, "x")).await;
    let sender = to_bob.push().await.sender.expect("one");
    assert_eq!(sender.nickname, "Ada", "though it does not say whose it is");
    users.0.is_held.store(true, SeqCst);
    *users.0.nickname.lock().expect("no panic under the lock") = "Countess";
    eventually("the answer is kept when it comes", async || {
        server.send(&ada, text(2, "x")).await;
        let sender = to_bob.push().await.sender.expect("one");
        // Only what was asked before this is answered.
        users.0.answers.add_permits(1);
        (sender.nickname == "Countess").then_some(())
    })
    .await;
}

#[tokio::test]
async fn messages_are_not_held_back_for_a_name() {
    let users = Users::default();
    let mut server = start(&users, 3_600).await;
    let (ada, bob) = (server.device_of(1).await, server.device_of(2).await);
    server.send(&ada, text(2, "x")).await;
    // Nobody is remembered then.
    server.restart().await;
    users.0.is_held.store(true, SeqCst);
    let mut as_bob = server.connect(Transport::Tcp, &bob).await;
    eventually("a page comes before the name", async || {
        let failed = server.metric(FAILED).await;
        let messages = as_bob.sync_from_start().await;
        assert_eq!(messages.len(), 1);
        let nickname = messages[0].sender.as_ref().map(|one| &*one.nickname);
        assert_eq!(nickname.unwrap_or_default(), "");
        (server.metric(FAILED).await == failed).then_some(())
    })
    .await;
    users.0.answers.add_permits(1);
    eventually("the name comes later", async || {
        let messages = as_bob.sync_from_start().await;
        let sender = messages[0].sender.as_ref().expect("one");
        (sender.nickname == "Ada").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_push_to_many_goes_on_where_the_business_left_it() {
    let users = Users::default();
    let server = start(&users, 3_600).await;
    let (first, last) = (server.device_of(1).await, server.device_of(6_000).await);
    let mut to_first = server.connect(Transport::Tcp, &first).await;
    let mut to_last = server.connect(Transport::Tcp, &last).await;
    let push = PushToUsersReq {
        user_ids: (1..=6_000).collect(),
        command: Some(command("for many")),
        is_persist: true,
        client_message_id: "job".into(),
    };
    users.0.are_away.store(true, SeqCst);
    let cut_off = server.push_to_users(push.clone()).await;
    assert_fails(cut_off, TRY_AGAIN_LATER);
    to_first.push().await;
    users.0.are_away.store(false, SeqCst);
    let done = server.push_to_users(push.clone()).await.expect("a retry");
    to_last.push().await;
    assert_eq!(server.push_to_users(push).await.expect("a repeat"), done);
    assert_eq!(users.times_asked(1), 1, "he had it already");
    assert_eq!(users.times_asked(6_000), 1);
    assert_eq!(to_first.sync_from_start().await.len(), 1);
}
