//! A long connection as a test uses it. It reads only while it is asked for something, so a test
//! that asks for nothing is a device that does not read.

use std::collections::VecDeque;

use im::pb::{
    Input, Message, MessageAck, MessageSend, Notice, NoticeCode, Output, PackageType,
    SendMessageReq, SendMessageResp, SyncInput, SyncOutput,
};
use prost::Message as _;

use super::{
    Device, Transport,
    errors::{TRY_AGAIN_LATER, assert_code},
    wait::soon,
    wire::{Incoming, Reader, Writer, opcode, web_socket_frame},
};

/// A long connection, signed in or not.
#[derive(Debug)]
pub struct Connection {
    reader: Reader,
    writer: Writer,
    last_request_id: i64,
    pushes: VecDeque<Message>,
    notices: VecDeque<Notice>,
    answers: VecDeque<Output>,
    pongs: usize,
    end: Option<Option<u16>>,
}

/// What the server says on a connection.
#[derive(Debug)]
pub enum Heard {
    Answer(Output),
    Push(Box<Message>),
    Notice(Notice),
    End,
}

impl Connection {
    pub fn new(reader: Reader, writer: Writer) -> Self {
        Self {
            reader,
            writer,
            last_request_id: 0,
            pushes: VecDeque::new(),
            notices: VecDeque::new(),
            answers: VecDeque::new(),
            pongs: 0,
            end: None,
        }
    }

    /// How it is carried.
    pub fn transport(&self) -> Transport {
        self.writer.transport()
    }

    /// Both halves, for a test that reads and writes at the same time.
    pub fn into_halves(self) -> (Reader, Writer) {
        (self.reader, self.writer)
    }

    /// Sends bytes as they are. A connection that the server has closed is noticed by reading.
    pub async fn raw(&mut self, bytes: &[u8]) {
        let _closed = soon("write", self.writer.raw(bytes)).await;
    }

    /// Sends one body as it is.
    pub async fn body(&mut self, body: &[u8]) {
        let _closed = soon("write", self.writer.body(body)).await;
    }

    /// Sends an `Input` with a type of any number, and returns its request id.
    pub async fn input(&mut self, package_type: i32, data: Vec<u8>) -> i64 {
        self.last_request_id += 1;
        let input = Input {
            r#type: package_type,
            request_id: self.last_request_id,
            data: data.into(),
        };
        self.body(&input.encode_to_vec()).await;
        self.last_request_id
    }

    /// Sends a package without waiting for its answer.
    pub async fn start(&mut self, package: PackageType, data: &impl prost::Message) -> i64 {
        self.input(package.into(), data.encode_to_vec()).await
    }

    /// Sends a package and waits for its answer.
    pub async fn request(&mut self, package: PackageType, data: &impl prost::Message) -> Output {
        let request_id = self.start(package, data).await;
        let output = self.answer(request_id).await;
        assert_eq!(
            output.r#type,
            i32::from(package),
            "an answer bears its Input's type: {output:?}"
        );
        output
    }

    /// The answer to `request_id`.
    pub async fn answer(&mut self, request_id: i64) -> Output {
        loop {
            let found = self.answers.iter().position(|a| a.request_id == request_id);
            if let Some(output) = found.and_then(|at| self.answers.remove(at)) {
                return output;
            }
            self.receive("an answer").await;
            self.assert_open("an answer");
        }
    }

    /// The next answer, whichever request it belongs to; `None` when the connection ended first.
    pub async fn any_answer(&mut self) -> Option<Output> {
        while self.answers.is_empty() && self.end.is_none() {
            self.receive("any answer").await;
        }
        self.answers.pop_front()
    }

    /// The next message that is pushed.
    pub async fn push(&mut self) -> Message {
        let pushed = self.push_or_end().await;
        pushed.unwrap_or_else(|| panic!("closed before a push: {self:?}"))
    }

    /// The next message that is pushed, or `None` when the connection ended first.
    pub async fn push_or_end(&mut self) -> Option<Message> {
        while self.pushes.is_empty() && self.end.is_none() {
            self.receive("a push").await;
        }
        self.pushes.pop_front()
    }

    /// The next `count` messages that are pushed.
    pub async fn pushed(&mut self, count: usize) -> Vec<Message> {
        let mut messages = Vec::with_capacity(count);
        while messages.len() < count {
            messages.push(self.push().await);
        }
        messages
    }

    /// The next thing the server says, whatever it is. There is no deadline. Cancel safe.
    pub async fn heard(&mut self) -> Heard {
        loop {
            if let Some(answer) = self.answers.pop_front() {
                return Heard::Answer(answer);
            }
            if let Some(message) = self.pushes.pop_front() {
                return Heard::Push(Box::new(message));
            }
            if let Some(notice) = self.notices.pop_front() {
                return Heard::Notice(notice);
            }
            if self.end.is_some() {
                return Heard::End;
            }
            match self.reader.next().await {
                Incoming::Body(body) => self.file(Output::decode(body).expect("an Output")),
                Incoming::Pong => self.pongs += 1,
                Incoming::Closed(code) => self.end = Some(code),
            }
        }
    }

    /// What was pushed while the test waited for other things.
    pub fn take_pushes(&mut self) -> Vec<Message> {
        self.pushes.drain(..).collect()
    }

    /// The next notice.
    pub async fn notice(&mut self) -> Notice {
        while self.notices.is_empty() {
            self.receive("a notice").await;
            if self.notices.is_empty() {
                self.assert_open("a notice");
            }
        }
        self.notices.pop_front().expect("not empty")
    }

    /// Reads to the end; the code of the WebSocket close frame, if there was one.
    pub async fn closed(&mut self) -> Option<u16> {
        loop {
            if let Some(end) = self.end {
                return end;
            }
            self.receive("the end of the connection").await;
        }
    }

    /// Asserts that the server gives `notice` and then closes, on WebSocket with `code`.
    pub async fn assert_ends_with(&mut self, notice: NoticeCode, code: u16) {
        assert_eq!(self.notice().await.code, i32::from(notice));
        self.assert_closes(code).await;
        assert!(self.notices.is_empty(), "one notice: {:?}", self.notices);
    }

    /// Asserts that the server closes, on WebSocket with `code`.
    pub async fn assert_closes(&mut self, code: u16) {
        let end = self.closed().await;
        match self.transport() {
            Transport::Tcp => assert_eq!(end, None),
            Transport::WebSocket => assert_eq!(end, Some(code), "the WebSocket close code"),
        }
    }

    /// Waits for the answer to a WebSocket ping.
    pub async fn pong(&mut self) {
        while self.pongs == 0 {
            self.receive("a pong").await;
            self.assert_open("a pong");
        }
        self.pongs -= 1;
    }

    /// Signs in, and returns the answer.
    pub async fn sign_in(&mut self, device: &Device) -> Output {
        let input = device.sign_in_input();
        self.request(PackageType::PtSignIn, &input).await
    }

    /// A heartbeat and its answer: the server has handled everything sent before.
    pub async fn heartbeat(&mut self) {
        let request_id = self
            .input(PackageType::PtHeartbeat.into(), Vec::new())
            .await;
        let answer = self.answer(request_id).await;
        assert_eq!(answer.r#type, i32::from(PackageType::PtHeartbeat));
        assert_code(&answer, 0);
        assert!(answer.data.is_empty(), "a heartbeat is empty both ways");
    }

    /// Sends a message, and returns the answer as it came.
    pub async fn try_send(&mut self, message: &SendMessageReq) -> Output {
        self.request(PackageType::PtSendMessage, message).await
    }

    /// Sends a message that cannot be refused.
    pub async fn send(&mut self, message: &SendMessageReq) -> SendMessageResp {
        sent(&self.try_send(message).await)
    }

    /// One page.
    pub async fn sync(&mut self, input: SyncInput) -> SyncOutput {
        let mut answer = self.request(PackageType::PtSync, &input).await;
        while answer.code == TRY_AGAIN_LATER {
            answer = self.request(PackageType::PtSync, &input).await;
        }
        assert_code(&answer, 0);
        let page = SyncOutput::decode(answer.data).expect("a SyncOutput");
        assert!(page.messages.len() <= 50, "a page has at most 50 messages");
        assert_ne!(page.epoch, 0, "0 means an unknown epoch");
        page
    }

    /// The page after `seq`.
    pub async fn sync_after(&mut self, seq: i64) -> SyncOutput {
        self.sync(SyncInput {
            seq,
            ..Default::default()
        })
        .await
    }

    /// The whole timeline, page by page.
    pub async fn sync_from_start(&mut self) -> Vec<Message> {
        let first = SyncInput {
            from_start: true,
            ..Default::default()
        };
        let mut page = self.sync(first).await;
        let mut messages = page.messages;
        while page.has_more {
            let last = messages
                .last()
                .expect("a page that is not the last has messages");
            page = self.sync_after(last.seq).await;
            assert!(!page.reset, "{page:?}");
            messages.append(&mut page.messages);
        }
        messages
    }

    /// Says what this device holds.
    pub async fn ack(&mut self, seq: i64) {
        let ack = MessageAck {
            device_ack: seq,
            receive_time: 1,
            group_id: 0,
        };
        self.start(PackageType::PtMessage, &ack).await;
    }

    /// Says what this device holds, and waits until the server has read it.
    pub async fn ack_and_wait(&mut self, seq: i64) {
        self.ack(seq).await;
        self.heartbeat().await;
    }

    #[track_caller]
    fn assert_open(&self, awaited: &str) {
        if let Some(end) = self.end {
            panic!(
                "closed ({end:?}) while waiting for {awaited}; answers {:?}, notices {:?}",
                self.answers, self.notices
            );
        }
    }

    /// Reads one thing and puts it aside.
    async fn receive(&mut self, awaited: &str) {
        if self.end.is_some() {
            return;
        }
        match soon(awaited, self.reader.next()).await {
            Incoming::Body(body) => self.file(Output::decode(body).expect("an Output")),
            Incoming::Pong => self.pongs += 1,
            Incoming::Closed(code) => {
                self.end = Some(code);
                if let Some(code) = code {
                    let reply = web_socket_frame(opcode::CLOSE, true, &code.to_be_bytes());
                    let _closed = self.writer.raw(&reply).await;
                }
            }
        }
    }

    fn file(&mut self, output: Output) {
        match PackageType::try_from(output.r#type) {
            Ok(PackageType::PtMessage) if output.code == 0 => {
                assert_eq!(output.request_id, 0, "a push bears request id 0");
                let push = MessageSend::decode(output.data).expect("a MessageSend");
                self.pushes.push_back(push.message.expect("a message"));
            }
            Ok(PackageType::PtNotice) if output.code == 0 => {
                assert_eq!(output.request_id, 0, "a notice bears request id 0");
                let notice = Notice::decode(output.data).expect("a Notice");
                self.notices.push_back(notice);
            }
            _ => self.answers.push_back(output),
        }
    }
}

/// The result in an answer to PT_SEND_MESSAGE.
pub fn sent(answer: &Output) -> SendMessageResp {
    assert_code(answer, 0);
    SendMessageResp::decode(answer.data.clone()).expect("a SendMessageResp")
}
