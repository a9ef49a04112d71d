//! Undoes content encodings on the side copy of a body: compressed pieces in, plain pieces out, as soon as they are there.
//!
//! Reads gzip (several members), deflate (with and without zlib's header), br, zstd, any three of them stacked, and
//! identity. A body that breaks off gives what came; a damaged one gives what was before the damage.
//!
//! Bounds: the window of each codec (gzip and deflate 32 KiB, zstd [`MAX_ZSTD_WINDOW_LOG`], br 16 MiB at most, which is
//! the format's own), [`STEP`] of stack for each, and on output [`MAX_OUTPUT`] and [`MAX_RATIO`].

use brotli::enc::StandardAlloc;
use brotli::{BrotliDecompressStream, BrotliResult, BrotliState};
use flate2::{Decompress, FlushDecompress, Status};
use zstd::stream::raw::{DParameter, Operation};

use crate::call::Unreadable;

/// Most output of one body, bytes: five times the largest answers there are (files of batch results, 200 MB).
pub const MAX_OUTPUT: u64 = 1 << 30;
/// Most output for each byte of input once [`FREE_OUTPUT`] is passed. JSON of API answers packs 3 to 30 times; a bomb
/// of gzip 1,000 times, of br or zstd more.
pub const MAX_RATIO: u64 = 200;
/// Output that is given whatever the ratio, bytes: runs of white space that keep a connection alive pack like bombs.
pub const FREE_OUTPUT: u64 = 8 << 20;
/// Largest zstd window: RFC 9659 lets no sender of `content-encoding: zstd` go beyond 8 MiB.
pub const MAX_ZSTD_WINDOW_LOG: u32 = 23;
/// Most encodings on one body. Nobody stacks two; more than three is an attack.
const MAX_LAYERS: usize = 3;
/// Output made at a time, bytes; on the stack.
const STEP: usize = 8 * 1024;

/// Push decompressor for one body.
pub struct Decompressor {
    /// As the header lists them: the last one was applied last and is undone first.
    layers: Vec<Codec>,
    budget: Budget,
    unreadable: Option<Unreadable>,
}

#[derive(Debug, Default)]
struct Budget {
    input: u64,
    output: u64,
}

enum Codec {
    Gzip(Gzip),
    Deflate(Deflate),
    Brotli(Box<BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>>),
    Zstd(zstd::stream::raw::Decoder<'static>),
    /// The format's own end has come; what follows is not looked at.
    Ended,
}

struct Gzip {
    member: Decompress,
    /// A member has ended: another one may follow.
    between: bool,
}

enum Deflate {
    /// Which of the two kinds it is takes two bytes to see.
    Unknown(Option<u8>),
    Known(Decompress),
}

impl Decompressor {
    /// For a body with this `content-encoding`; `None` and `identity` pass everything through.
    pub fn new(content_encoding: Option<&str>) -> Self {
        let mut layers = Vec::new();
        let mut unreadable = None;
        for name in content_encoding.unwrap_or_default().split(',').map(|name| name.trim().to_ascii_lowercase()) {
            if name.is_empty() || name == "identity" {
                continue;
            }
            match Codec::of(&name) {
                Some(codec) if layers.len() < MAX_LAYERS => layers.push(codec),
                _ => unreadable = Some(Unreadable::UnsupportedEncoding),
            }
        }
        Self { layers, budget: Budget::default(), unreadable }
    }

    /// Nothing is to be undone: what goes in comes out.
    pub fn is_identity(&self) -> bool {
        self.layers.is_empty() && self.unreadable.is_none()
    }

    /// Why nothing more comes out, if that is so.
    pub fn unreadable(&self) -> Option<Unreadable> {
        self.unreadable
    }

    /// Reads on; plain pieces go to `out`. After trouble nothing does.
    pub fn feed(&mut self, bytes: &[u8], out: &mut dyn FnMut(&[u8])) {
        if self.unreadable.is_some() || bytes.is_empty() {
            return;
        }
        self.budget.input += bytes.len() as u64;
        if let Err(why) = undo(&mut self.layers, &mut self.budget, bytes, out) {
            self.unreadable = Some(why);
            // The windows are not needed any more.
            self.layers = Vec::new();
        }
    }
}

/// Undoes the last of `layers`, then the rest.
fn undo(
    layers: &mut [Codec],
    budget: &mut Budget,
    mut input: &[u8],
    out: &mut dyn FnMut(&[u8]),
) -> Result<(), Unreadable> {
    let Some((codec, rest)) = layers.split_last_mut() else {
        out(input);
        return Ok(());
    };
    let mut buffer = [0; STEP];
    loop {
        let (read, written) = codec.step(input, &mut buffer)?;
        input = &input[read..];
        if written > 0 {
            budget.spend(written)?;
            undo(rest, budget, &buffer[..written], out)?;
        }
        // A full buffer may hide more output; otherwise it ends with the input, or when nothing moves.
        if written < buffer.len() && (input.is_empty() || read + written == 0) {
            return Ok(());
        }
    }
}

impl Budget {
    fn spend(&mut self, written: usize) -> Result<(), Unreadable> {
        self.output += written as u64;
        let allowed = self.input.saturating_mul(MAX_RATIO).clamp(FREE_OUTPUT, MAX_OUTPUT);
        if self.output > allowed { Err(Unreadable::BodyLimit) } else { Ok(()) }
    }
}

impl Codec {
    fn of(name: &str) -> Option<Self> {
        Some(match name {
            "gzip" | "x-gzip" => Codec::Gzip(Gzip { member: gzip_member(), between: false }),
            "deflate" => Codec::Deflate(Deflate::Unknown(None)),
            "br" => {
                let alloc = StandardAlloc::default;
                // Strict: no window beyond the 16 MiB of RFC 7932.
                Codec::Brotli(Box::new(BrotliState::new_strict(alloc(), alloc(), alloc())))
            }
            "zstd" => {
                let mut decoder = zstd::stream::raw::Decoder::new().ok()?;
                decoder.set_parameter(DParameter::WindowLogMax(MAX_ZSTD_WINDOW_LOG)).ok()?;
                Codec::Zstd(decoder)
            }
            _ => return None,
        })
    }

    /// One step: bytes read and written. Trouble with the bytes is [`Unreadable::DecodeError`].
    fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<(usize, usize), Unreadable> {
        match self {
            Codec::Gzip(gzip) => {
                if gzip.between {
                    match input.first() {
                        None => return Ok((0, 0)),
                        Some(0x1F) => *gzip = Gzip { member: gzip_member(), between: false },
                        // Padding, which gzip allows.
                        Some(_) => {
                            *self = Codec::Ended;
                            return Ok((input.len(), 0));
                        }
                    }
                }
                let (status, read, written) = inflate(&mut gzip.member, input, output)?;
                gzip.between = status == Status::StreamEnd;
                Ok((read, written))
            }
            Codec::Deflate(deflate) => {
                let inner = match deflate {
                    Deflate::Known(inner) => inner,
                    Deflate::Unknown(first) => {
                        let (Some(one), Some(two)) = (first.or(input.first().copied()), second(*first, input)) else {
                            *first = first.or(input.first().copied());
                            return Ok((input.len(), 0));
                        };
                        // RFC 1950: method 8, and both bytes a multiple of 31.
                        let zlib = one & 0x0F == 8 && u16::from_be_bytes([one, two]) % 31 == 0;
                        let mut inner = Decompress::new(zlib);
                        if first.is_some() {
                            inflate(&mut inner, &[one], &mut [])?;
                        }
                        *deflate = Deflate::Known(inner);
                        return self.step(input, output);
                    }
                };
                let (status, read, written) = inflate(inner, input, output)?;
                if status == Status::StreamEnd {
                    *self = Codec::Ended;
                }
                Ok((read, written))
            }
            Codec::Brotli(state) => {
                let (mut available_in, mut read) = (input.len(), 0);
                let (mut available_out, mut written, mut total) = (output.len(), 0, 0);
                let result = BrotliDecompressStream(
                    &mut available_in,
                    &mut read,
                    input,
                    &mut available_out,
                    &mut written,
                    output,
                    &mut total,
                    state,
                );
                match result {
                    BrotliResult::ResultFailure => return Err(Unreadable::DecodeError),
                    BrotliResult::ResultSuccess => *self = Codec::Ended,
                    BrotliResult::NeedsMoreInput | BrotliResult::NeedsMoreOutput => {}
                }
                Ok((read, written))
            }
            Codec::Zstd(decoder) => {
                let status = decoder.run_on_buffers(input, output).map_err(|_| Unreadable::DecodeError)?;
                Ok((status.bytes_read, status.bytes_written))
            }
            Codec::Ended => Ok((input.len(), 0)),
        }
    }
}

fn gzip_member() -> Decompress {
    Decompress::new_gzip(15)
}

/// The second byte of a body whose first may have come before.
fn second(first: Option<u8>, input: &[u8]) -> Option<u8> {
    input.get(usize::from(first.is_none())).copied()
}

fn inflate(inner: &mut Decompress, input: &[u8], output: &mut [u8]) -> Result<(Status, usize, usize), Unreadable> {
    let (before_in, before_out) = (inner.total_in(), inner.total_out());
    let status = inner.decompress(input, output, FlushDecompress::None).map_err(|_| Unreadable::DecodeError)?;
    Ok((status, (inner.total_in() - before_in) as usize, (inner.total_out() - before_out) as usize))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::Write;

    use flate2::Compression;

    use super::*;
    use crate::protocol::random::Random;

    /// `bytes` under one content encoding; `raw` is deflate without zlib's header.
    pub(crate) fn pack(encoding: &str, bytes: &[u8]) -> Vec<u8> {
        let level = Compression::default();
        match encoding {
            "gzip" => {
                let mut out = flate2::write::GzEncoder::new(Vec::new(), level);
                out.write_all(bytes).unwrap();
                out.finish().unwrap()
            }
            "deflate" => {
                let mut out = flate2::write::ZlibEncoder::new(Vec::new(), level);
                out.write_all(bytes).unwrap();
                out.finish().unwrap()
            }
            "raw" => {
                let mut out = flate2::write::DeflateEncoder::new(Vec::new(), level);
                out.write_all(bytes).unwrap();
                out.finish().unwrap()
            }
            "br" => {
                let mut out = Vec::new();
                brotli::CompressorReader::new(bytes, 4096, 5, 22).read_to_end_into(&mut out);
                out
            }
            "zstd" => zstd::encode_all(bytes, 3).unwrap(),
            _ => bytes.to_vec(),
        }
    }

    trait ReadAll {
        fn read_to_end_into(&mut self, out: &mut Vec<u8>);
    }

    impl<R: std::io::Read> ReadAll for R {
        fn read_to_end_into(&mut self, out: &mut Vec<u8>) {
            self.read_to_end(out).unwrap();
        }
    }

    const ENCODINGS: [(&str, &str); 6] = [
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("deflate", "raw"),
        ("br", "br"),
        ("zstd", "zstd"),
        ("identity", "-"),
    ];

    fn run<'a>(encoding: &str, pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<u8>, Option<Unreadable>) {
        let mut decompressor = Decompressor::new(Some(encoding));
        let mut out = Vec::new();
        for piece in pieces {
            decompressor.feed(piece, &mut |bytes| out.extend_from_slice(bytes));
        }
        (out, decompressor.unreadable())
    }

    fn text(bytes: usize) -> Vec<u8> {
        let mut random = Random(bytes as u64);
        (0..bytes).map(|_| b"{}[]\",:abcdefgh 0123456789"[random.below(26)]).collect()
    }

    #[test]
    fn every_encoding_cut_at_every_byte() {
        for (encoding, packing) in ENCODINGS {
            for plain in [text(250), b"a".repeat(30_000), Vec::new()] {
                let packed = pack(packing, &plain);
                for at in 0..=packed.len() {
                    let got = run(encoding, [&packed[..at], &packed[at..]]);
                    assert_eq!(got, (plain.clone(), None), "{packing} cut at {at}");
                }
                assert_eq!(run(encoding, packed.chunks(1)), (plain, None), "{packing}");
            }
            let plain = text(60_000);
            let packed = pack(packing, &plain);
            let mut random = Random(5);
            assert_eq!(run(encoding, random.cut(&packed)), (plain.clone(), None), "{packing}");
            assert_eq!(run(encoding, [&packed[..]]), (plain, None), "{packing}");
        }
    }

    #[test]
    fn what_came_of_a_cut_body_is_given() {
        let plain = text(100_000);
        for (encoding, packing) in ENCODINGS {
            let packed = pack(packing, &plain);
            let (got, why) = run(encoding, [&packed[..packed.len() / 2]]);
            assert_eq!(why, None, "{packing}");
            assert!(plain.starts_with(&got), "{packing}");
            // br and zstd give whole blocks only; zstd's have 128 KiB.
            assert!(got.len() > plain.len() / 4 || matches!(packing, "zstd" | "br"), "{packing}: {}", got.len());
        }
    }

    #[test]
    fn flushed_parts_come_at_once() {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), Compression::default());
        let mut zstd = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
        let mut br = brotli::CompressorWriter::new(Vec::new(), 4096, 5, 22);
        let mut decompressors = ["gzip", "zstd", "br"].map(|name| (Decompressor::new(Some(name)), 0, Vec::new()));
        for event in ["data: {\"a\":1}\n\n", "data: [DONE]\n\n"] {
            gzip.write_all(event.as_bytes()).unwrap();
            gzip.flush().unwrap();
            zstd.write_all(event.as_bytes()).unwrap();
            zstd.flush().unwrap();
            br.write_all(event.as_bytes()).unwrap();
            br.flush().unwrap();
            let packed = [gzip.get_ref(), zstd.get_ref(), br.get_ref()];
            for ((decompressor, fed, got), packed) in decompressors.iter_mut().zip(packed) {
                got.clear();
                decompressor.feed(&packed[*fed..], &mut |bytes| got.extend_from_slice(bytes));
                *fed = packed.len();
                assert_eq!(got, event.as_bytes());
            }
        }
    }

    #[test]
    fn members_frames_and_padding() {
        let two = [pack("gzip", b"one "), pack("gzip", b"two")].concat();
        assert_eq!(run("gzip", two.chunks(1)), (b"one two".to_vec(), None));
        assert_eq!(run("gzip", [&[&two[..], &[0; 100]].concat()[..]]), (b"one two".to_vec(), None));
        let frames = [pack("zstd", b"one "), pack("zstd", b"two")].concat();
        assert_eq!(run("zstd", frames.chunks(1)), (b"one two".to_vec(), None));
        for packing in ["br", "deflate"] {
            let trailed = [pack(packing, b"one"), b"junk".to_vec()].concat();
            assert_eq!(run(packing, [&trailed[..]]), (b"one".to_vec(), None), "{packing}");
        }
    }

    #[test]
    fn stacked_encodings() {
        let plain = text(50_000);
        let packed = pack("br", &pack("gzip", &plain));
        assert_eq!(run("gzip, BR", packed.chunks(100)), (plain.clone(), None));
        assert_eq!(run(" identity,x-gzip ,br", packed.chunks(7)), (plain, None));
        assert_eq!(run("gzip, gzip, gzip, gzip", [&b"x"[..]]).1, Some(Unreadable::UnsupportedEncoding));
    }

    #[test]
    fn unknown_encodings_and_none() {
        for name in ["compress", "gzip, dcb", "utf-8"] {
            assert_eq!(run(name, [&b"bytes"[..]]), (Vec::new(), Some(Unreadable::UnsupportedEncoding)), "{name}");
        }
        assert!(Decompressor::new(None).is_identity() && Decompressor::new(Some(" Identity")).is_identity());
        assert!(!Decompressor::new(Some("gzip")).is_identity() && !Decompressor::new(Some("xz")).is_identity());
    }

    #[test]
    fn bombs_stop() {
        let zeros = vec![0; 12 << 20];
        for packing in ["gzip", "deflate", "br", "zstd"] {
            let packed = pack(packing, &zeros);
            assert!(packed.len() < 80_000, "{packing}: {}", packed.len());
            let mut decompressor = Decompressor::new(Some(packing));
            let mut total = 0;
            for piece in packed.chunks(1000) {
                decompressor.feed(piece, &mut |bytes| total += bytes.len() as u64);
            }
            assert_eq!(decompressor.unreadable(), Some(Unreadable::BodyLimit), "{packing}");
            assert!(total <= FREE_OUTPUT.max(packed.len() as u64 * MAX_RATIO), "{packing}: {total}");
        }
        let mut budget = Budget { input: u64::MAX, output: MAX_OUTPUT - 10 };
        assert!(budget.spend(10).is_ok() && budget.spend(1).is_err());
    }

    #[test]
    fn a_zstd_window_beyond_the_bound_is_refused() {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(MAX_ZSTD_WINDOW_LOG + 1).unwrap();
        encoder.write_all(&text(100_000)).unwrap();
        let packed = encoder.finish().unwrap();
        assert_eq!(run("zstd", [&packed[..]]), (Vec::new(), Some(Unreadable::DecodeError)));
    }

    #[test]
    fn damage_never_panics_nor_hangs() {
        let plain = text(2000);
        let mut random = Random(9);
        for (encoding, packing) in ENCODINGS {
            let packed = pack(packing, &plain);
            let mut noticed = 0;
            for _ in 0..400 {
                let mut bad = packed.clone();
                for _ in 0..1 + random.below(3) {
                    let at = random.below(bad.len());
                    bad[at] = random.next() as u8;
                }
                let whole = run(encoding, [&bad[..]]);
                noticed += usize::from(whole.1 == Some(Unreadable::DecodeError));
                assert!(whole.0.len() as u64 <= FREE_OUTPUT);
            }
            assert!(noticed > 0 || packing == "-", "{packing}");
            run(encoding, [&b"{\"error\":\"not packed at all\"}"[..]]);
        }
    }
}
