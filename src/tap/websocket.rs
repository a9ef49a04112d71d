//! An upgraded connection (WebSocket): both directions copied as they come; the messages that the provider sends are
//! looked at on the side, so that Realtime usage events are metered.
//!
//! Bounds: 16 KiB of buffer a direction; a frame is never held whole. Compressed messages (permessage-deflate, RFC 7692)
//! are inflated on the side, up to [`MAX_RATIO`] bytes for each of theirs.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flate2::{Decompress, FlushDecompress};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::decompress::{FREE_OUTPUT, MAX_RATIO};
use super::{OpenCall, guarded};
use crate::call::{End, Unreadable};
use crate::protocol::Decoder;

const BUFFER: usize = 16 * 1024;
/// After one side has ended, the other has this long to end as well.
const CLOSE_WAIT: Duration = Duration::from_secs(30);
const CLOSE: u8 = 8;

/// Copies both ways until both have ended, then ends `call`. `extensions` is the answer's `Sec-WebSocket-Extensions`.
pub async fn tunnel(
    application: Upgraded,
    provider: Upgraded,
    call: Arc<OpenCall>,
    decoder: Decoder,
    extensions: Option<&str>,
) {
    let mut watch = Watch {
        call,
        decoder: Some(decoder),
        frames: Frames::new(extensions),
        up_bytes: 0,
        down_bytes: 0,
        first_output: None,
        last_output: None,
        first_byte: None,
        overhead: Duration::ZERO,
        up_ended: None,
        down_ended: None,
    };
    let (mut from_app, mut to_app) = tokio::io::split(TokioIo::new(application));
    let (mut from_provider, mut to_provider) = tokio::io::split(TokioIo::new(provider));
    let (mut up_bytes, mut up_end, mut down_end) = (0, None, None);
    {
        let up = pump(&mut from_app, &mut to_provider, |data| up_bytes += data.len() as u64);
        let down = pump(&mut from_provider, &mut to_app, |data| watch.down(data));
        tokio::pin!(up, down);
        tokio::select! {
            ended = &mut up => {
                up_end = Some(ended.is_ok());
                if let Ok(ended) = tokio::time::timeout(CLOSE_WAIT, down).await {
                    down_end = Some(ended.is_ok());
                }
            }
            ended = &mut down => {
                down_end = Some(ended.is_ok());
                // Not awaited past the limit: an application that keeps its half open cannot keep the call open.
                if let Ok(ended) = tokio::time::timeout(CLOSE_WAIT, up).await {
                    up_end = Some(ended.is_ok());
                }
            }
        }
    }
    (watch.up_bytes, watch.up_ended, watch.down_ended) = (up_bytes, up_end, down_end);
}

async fn pump<R, W>(from: &mut R, to: &mut W, mut seen: impl FnMut(&[u8])) -> io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..read]).await?;
        to.flush().await?;
        seen(&buffer[..read]);
    }
}

/// Ends the call when it is dropped, however the copying stopped.
struct Watch {
    call: Arc<OpenCall>,
    decoder: Option<Decoder>,
    frames: Frames,
    up_bytes: u64,
    down_bytes: u64,
    first_byte: Option<Duration>,
    first_output: Option<Duration>,
    last_output: Option<Duration>,
    overhead: Duration,
    /// `Some(true)`: ended cleanly.
    up_ended: Option<bool>,
    down_ended: Option<bool>,
}

impl Watch {
    fn down(&mut self, data: &[u8]) {
        let started = Instant::now();
        self.down_bytes += data.len() as u64;
        let at = self.call.elapsed();
        self.first_byte.get_or_insert(at);
        let mut output = false;
        if let (Some(decoder), None) = (&mut self.decoder, self.frames.failed) {
            let frames = &mut self.frames;
            let read = guarded("answer", data, || frames.feed(data, &mut |plain| output |= decoder.feed(plain).output));
            if read.is_none() {
                self.frames.failed = Some(Unreadable::DecodeError);
            }
        }
        if output {
            self.first_output.get_or_insert(at);
            self.last_output = Some(at);
        }
        self.overhead += started.elapsed();
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let Some(decoder) = self.decoder.take() else { return };
        let mut reply = guarded("", &[], || decoder.finish(true)).unwrap_or_default();
        reply.stream = true;
        reply.terminal = true;
        reply.unreadable = reply.unreadable.or(self.frames.failed);
        let end = match (self.frames.closed, self.down_ended, self.up_ended) {
            (true, _, _) | (_, Some(true), _) => End::Complete,
            (_, Some(false), _) => End::Truncated,
            _ => self.call.dropped(End::Truncated),
        };
        self.call.finish(end, reply, |facts| {
            facts.request.bytes += self.up_bytes;
            if let Some(response) = &mut facts.response {
                response.bytes = self.down_bytes;
            }
            facts.timing.first_byte = self.first_byte;
            facts.timing.first_output = self.first_output;
            facts.timing.last_output = self.last_output;
            facts.timing.overhead_response += self.overhead;
        });
    }
}

/// Push parser of the frames that a server sends (RFC 6455 section 5.2), never masked.
pub(crate) struct Frames {
    header: [u8; 14],
    header_len: usize,
    /// Payload bytes of the current frame still to come.
    left: u64,
    in_payload: bool,
    last: bool,
    opcode: u8,
    /// The current message is compressed.
    compressed: bool,
    message_is_data: bool,
    inflate: Option<Decompress>,
    /// Bytes of compressed messages, and what came of them.
    packed: u64,
    inflated: u64,
    takeover: bool,
    /// A close frame came.
    pub(crate) closed: bool,
    pub(crate) failed: Option<Unreadable>,
}

impl Frames {
    pub(crate) fn new(extensions: Option<&str>) -> Self {
        let deflate = extensions.is_some_and(|text| text.contains("permessage-deflate"));
        let takeover = !extensions.is_some_and(|text| text.contains("server_no_context_takeover"));
        Self {
            header: [0; 14],
            header_len: 0,
            left: 0,
            in_payload: false,
            last: true,
            opcode: 0,
            compressed: false,
            message_is_data: false,
            inflate: deflate.then(|| Decompress::new(false)),
            packed: 0,
            inflated: 0,
            takeover,
            closed: false,
            failed: None,
        }
    }

    /// Hands the text of every message on, each followed by a line end.
    pub(crate) fn feed(&mut self, mut data: &[u8], out: &mut dyn FnMut(&[u8])) {
        while !data.is_empty() && self.failed.is_none() {
            if !self.in_payload {
                self.header[self.header_len] = data[0];
                self.header_len += 1;
                data = &data[1..];
                self.read_header(out);
                continue;
            }
            let take = data.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
            let (payload, rest) = data.split_at(take);
            data = rest;
            self.left -= take as u64;
            if self.opcode < CLOSE && self.message_is_data {
                self.payload(payload, out);
            }
            if self.left == 0 {
                self.frame_end(out);
            }
        }
    }

    fn read_header(&mut self, out: &mut dyn FnMut(&[u8])) {
        let have = self.header_len;
        if have < 2 {
            return;
        }
        let (first, second) = (self.header[0], self.header[1]);
        let masked = second & 0x80 != 0;
        let length_bytes = match second & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        if have < 2 + length_bytes + if masked { 4 } else { 0 } {
            return;
        }
        if masked {
            self.failed = Some(Unreadable::DecodeError);
            return;
        }
        self.left = match length_bytes {
            0 => u64::from(second & 0x7f),
            _ => self.header[2..2 + length_bytes].iter().fold(0, |value, byte| value << 8 | u64::from(*byte)),
        };
        self.last = first & 0x80 != 0;
        self.opcode = first & 0x0f;
        if matches!(self.opcode, 1 | 2) {
            self.message_is_data = true;
            self.compressed = first & 0x40 != 0;
        }
        self.closed |= self.opcode == CLOSE;
        self.header_len = 0;
        self.in_payload = true;
        if self.left == 0 {
            self.frame_end(out);
        }
    }

    fn payload(&mut self, payload: &[u8], out: &mut dyn FnMut(&[u8])) {
        if !self.compressed {
            out(payload);
            return;
        }
        let Some(inflate) = &mut self.inflate else {
            self.failed = Some(Unreadable::DecodeError);
            return;
        };
        self.packed += payload.len() as u64;
        let mut input = payload;
        let mut buffer = [0; 4096];
        loop {
            let (read_before, written_before) = (inflate.total_in(), inflate.total_out());
            if inflate.decompress(input, &mut buffer, FlushDecompress::Sync).is_err() {
                self.failed = Some(Unreadable::DecodeError);
                return;
            }
            input = &input[(inflate.total_in() - read_before) as usize..];
            let written = (inflate.total_out() - written_before) as usize;
            self.inflated += written as u64;
            if self.inflated > self.packed.saturating_mul(MAX_RATIO).max(FREE_OUTPUT) {
                self.failed = Some(Unreadable::BodyLimit);
                return;
            }
            out(&buffer[..written]);
            if written < buffer.len() && input.is_empty() || written == 0 {
                return;
            }
        }
    }

    fn frame_end(&mut self, out: &mut dyn FnMut(&[u8])) {
        self.in_payload = false;
        if self.opcode >= CLOSE || !self.last || !self.message_is_data {
            return;
        }
        if self.compressed {
            // RFC 7692 section 7.2.2: the sender cut this empty block off.
            self.payload(&[0, 0, 0xff, 0xff], out);
            if !self.takeover
                && let Some(inflate) = &mut self.inflate
            {
                inflate.reset(false);
            }
        }
        self.message_is_data = false;
        out(b"\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![first];
        match payload.len() {
            short @ 0..=125 => bytes.push(short as u8),
            long => {
                bytes.push(126);
                bytes.extend((long as u16).to_be_bytes());
            }
        }
        bytes.extend(payload);
        bytes
    }

    fn read(extensions: Option<&str>, wire: &[u8], cut: usize) -> (String, bool) {
        let mut frames = Frames::new(extensions);
        let mut text = Vec::new();
        for piece in wire.chunks(cut) {
            frames.feed(piece, &mut |plain| text.extend_from_slice(plain));
        }
        assert_eq!(frames.failed, None);
        (String::from_utf8(text).unwrap(), frames.closed)
    }

    #[test]
    fn messages_come_out_whole_however_they_are_cut() {
        let long = "x".repeat(300);
        let mut wire = frame(0x01, b"{\"a\":");
        wire.extend(frame(0x89, b"ping")); // a control frame between fragments
        wire.extend(frame(0x80, b"1}"));
        wire.extend(frame(0x81, long.as_bytes()));
        wire.extend(frame(0x88, &[3, 232]));
        for cut in 1..wire.len() {
            assert_eq!(read(None, &wire, cut), (format!("{{\"a\":1}}\n{long}\n"), true));
        }
    }

    #[test]
    fn compressed_messages_share_a_window() {
        let mut deflate = flate2::Compress::new(flate2::Compression::fast(), false);
        let mut wire = Vec::new();
        for text in ["{\"usage\":{\"input_tokens\":12}}", "{\"usage\":{\"input_tokens\":13}}"] {
            let mut packed = Vec::with_capacity(256);
            deflate.compress_vec(text.as_bytes(), &mut packed, flate2::FlushCompress::Sync).unwrap();
            packed.truncate(packed.len() - 4);
            wire.extend(frame(0xc1, &packed));
        }
        for cut in [1, 2, 7, wire.len()] {
            let (text, _) = read(Some("permessage-deflate"), &wire, cut);
            assert_eq!(text, "{\"usage\":{\"input_tokens\":12}}\n{\"usage\":{\"input_tokens\":13}}\n");
        }
    }

    #[test]
    fn a_compressed_message_that_is_a_bomb_stops_the_look() {
        let mut deflate = flate2::Compress::new(flate2::Compression::best(), false);
        let mut packed = Vec::with_capacity(1 << 20);
        deflate.compress_vec(&vec![b' '; 64 << 20], &mut packed, flate2::FlushCompress::Sync).unwrap();
        let mut wire = vec![0xc1, 127];
        wire.extend((packed.len() as u64).to_be_bytes());
        wire.extend(packed);
        let (mut frames, mut length) = (Frames::new(Some("permessage-deflate")), 0);
        frames.feed(&wire, &mut |plain| length += plain.len() as u64);
        assert_eq!(frames.failed, Some(Unreadable::BodyLimit));
        assert!(length <= (wire.len() as u64 * MAX_RATIO).max(FREE_OUTPUT), "{length} of {}", wire.len());
    }

    #[test]
    fn a_masked_or_unexpected_frame_stops_the_look() {
        for wire in [frame(0x81, b"").iter().map(|b| b | 0x80).chain([0; 4]).collect::<Vec<_>>(), frame(0xc1, b"abc")] {
            let mut frames = Frames::new(None);
            frames.feed(&wire, &mut |_| ());
            assert_eq!(frames.failed, Some(Unreadable::DecodeError));
        }
    }
}
