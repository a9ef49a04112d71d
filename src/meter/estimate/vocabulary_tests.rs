//! The vocabulary's file made again from tiktoken-rs, and tokens of many texts compared with what tiktoken-rs makes of them.

use std::path::Path;

use regex_syntax::hir::{Class as Set, HirKind};
use tiktoken_rs::o200k_base_singleton;

use super::*;
use crate::meter::estimate::pieces::Class;
use crate::protocol::random::Random;

/// Asks for the file to be written.
const WRITE: &str = "KEYTALLY_WRITE_VOCABULARY";

#[test]
fn the_file_is_made_of_tiktokens_vocabulary() {
    let made = unpacked();
    if std::env::var_os(WRITE).is_some() {
        let packed = zstd::bulk::compress(&made, 22).unwrap();
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/meter/estimate/o200k.zst");
        std::fs::write(file, packed).unwrap();
        return;
    }
    let stored = zstd::bulk::decompress(PACKED, MAX_UNPACKED).unwrap();
    assert!(made == stored, "o200k.zst is not what tiktoken-rs makes it: run {WRITE}=1 cargo test --lib estimate");
}

/// What [`Vocabulary::unpack`] finds in the file.
fn unpacked() -> Vec<u8> {
    let oracle = o200k_base_singleton();
    let token = |rank: u32| oracle.decode_bytes(&[rank]).unwrap();
    let mut file = Vec::new();
    let mut bytes = [NONE; BYTES];
    for rank in 0..BYTES as u32 {
        let [byte] = token(rank)[..] else { panic!("token {rank} has more than a byte") };
        bytes[usize::from(byte)] = rank;
        file.push(byte);
    }
    // The pair that becomes a token is what the pairs before it make of its bytes.
    let mut pairs = Pairs::default();
    let mut merge = Merge::default();
    let mut planes = vec![0; 6 * PAIRS];
    for i in 0..PAIRS {
        let rank = (BYTES + i) as u32;
        let parts = merge.merge(&pairs, token(rank).iter().map(|byte| bytes[usize::from(*byte)]));
        let [first, second] = *parts else { panic!("token {rank} is made of {} tokens", parts.len()) };
        pairs.insert(first, second, rank);
        for (which, token) in [(0, first), (3, second)] {
            for (byte, value) in token.to_be_bytes()[1..].iter().enumerate() {
                planes[(which + byte) * PAIRS + i] = *value;
            }
        }
    }
    let next = (BYTES + PAIRS) as u32;
    assert!(oracle.decode_bytes(&[next]).is_err(), "a token {next}");
    file.extend(planes);
    let mut before = None;
    for (char, class) in classes() {
        if before != Some(class) {
            file.extend((u32::from(char) << 3 | class as u32).to_le_bytes());
        }
        before = Some(class);
    }
    file
}

/// The class of every character, by the tables of the regular expressions that tiktoken-rs uses.
fn classes() -> Vec<(char, Class)> {
    let mut classes: Vec<_> = ('\0'..=char::MAX).map(|char| (char, Class::Other)).collect();
    for (set, class) in [
        (r"[\p{Lu}\p{Lt}]", Class::Upper),
        (r"\p{Ll}", Class::Lower),
        (r"[\p{Lm}\p{Lo}]", Class::Letter),
        (r"\p{M}", Class::Mark),
        (r"\p{N}", Class::Number),
        (r"\s", Class::Space),
    ] {
        let parsed = regex_syntax::parse(set).unwrap();
        let HirKind::Class(Set::Unicode(set)) = parsed.kind() else { panic!("{set} is no class") };
        for range in set.ranges() {
            let first = classes.partition_point(|(char, _)| *char < range.start());
            let of_range = classes[first..].iter_mut().take_while(|(char, _)| *char <= range.end());
            of_range.for_each(|(char, of)| {
                assert_eq!(*of, Class::Other, "{char:?} has two classes");
                *of = class;
            });
        }
    }
    classes
}

#[test]
fn every_character_has_its_class() {
    let vocabulary = Vocabulary::unpack();
    for (char, class) in classes() {
        assert_eq!(vocabulary.classes.of(char), class, "{char:?}");
    }
}

/// Ours, to be compared with tiktoken's.
struct Both {
    ours: Vocabulary,
    tokens: usize,
}

impl Both {
    fn new() -> Self {
        Self { ours: Vocabulary::unpack(), tokens: 0 }
    }

    fn compare(&mut self, text: &str) {
        let mut ours = Vec::new();
        self.ours.encode(text, |tokens| ours.extend_from_slice(tokens));
        let theirs = o200k_base_singleton().encode_ordinary(text);
        if ours != theirs {
            let same = ours.iter().zip(&theirs).take_while(|(ours, theirs)| ours == theirs).count();
            let at = text.floor_char_boundary(o200k_base_singleton().decode_bytes(&ours[..same]).unwrap().len());
            let shown = &text[at..text.ceil_char_boundary(at + 100)];
            panic!("after {same} tokens {:?}, tiktoken's {:?}: {shown:?}", ours.get(same), theirs.get(same));
        }
        self.tokens += ours.len();
    }
}

/// Scripts, and what the pattern treats as special.
const TEXTS: &[&str] = &[
    "hello world",
    "Hello, World! HTTPServer XMLHttpRequest iPhone McDonald's camelCase SCREAMING_SNAKE snake_case",
    "I'm you're HE'LL THEY'VE we'd it's IT'S don't DON'T 'tis rock'n'roll o'clock 'S 'ſ a'ſb x'Re y'vE l'lL n'L z'r 's's I'ſ I'S",
    "naïve café Ångström straße GROẞE ĳ Ǆ ǅ ǆ Ǆungla ǅungla ﬁnal ʼn ªº ˈstress ʰ x₁² ½ Ⅷ ① ٣ ३ ৳ 1234567 3.14159 1,000,000",
    "Быстрая коричневая ЛИСА перепрыгивает через Ленивую собаку. Ёжик, її ґанок, Ђорђе",
    "Η γρήγορη ΑΛΕΠΟΎ, ΆΈ ὦ ᾳ ᾼ",
    "快速的棕色狐狸跳过懒狗。繁體中文與標點「引號」、《書名》…",
    "素早い茶色の狐がのろまな犬を飛び越える。カタカナーﾊﾝｶｸ々〆ヶ",
    "빠른 갈색 여우가 게으른 개를 뛰어넘는다 ㅋㅋㅋ ㅠㅠ",
    "الثعلب البنيّ السريع يقفز فوق الكلبِ الكسول، ١٢٣٤٥٦ لَا إِلٰهَ",
    "השועל החום המהיר קפץ מעל הכלב העצלן שָׁלוֹם",
    "สุนัขจิ้งจอกสีน้ำตาลที่ว่องไวกระโดดข้ามสุนัขขี้เกียจ ๑๒๓ ํ ้",
    "तेज़ भूरी लोमड़ी आलसी कुत्ते के ऊपर कूदती है। क्षत्रिय ज्ञ १२३४",
    "দ্রুত বাদামী শিয়াল",
    "விரைவான பழுப்பு நரி கௌ",
    "త్వరిత గోధుమ నక్క",
    "ವೇಗದ ಕಂದು ನರಿ",
    "വേഗത്തിലുള്ള തവിട്ടുനിറമുള്ള കുറുക്കൻ",
    "မြန်ဆန်သော မြေခွေး",
    "កញ្ជ្រោងពណ៌ត្នោត",
    "სწრაფი ყავისფერი მელა ᲡᲬᲠᲐᲤᲘ",
    "Արագ շագանակագույն աղվեսը",
    "ፈጣን ቡናማ ቀበሮ",
    "ᏣᎳᎩ ꮳꮃꭹ",
    "𐐀𐐨 𝐀𝐚 𝟎𝟏 𓀀 𒀀 𠀀𪜶",
    "Tiếng Việt: Con cáo nâu nhanh nhẹn, e\u{302}\u{301} e\u{301}A E\u{301}a A\u{301}\u{301}B \u{301}x !\u{301} !!\u{301}a",
    "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇩🇪🇫🇷 1️⃣ ❤️ ☃ ©®™ 🤷🏿‍♀️.",
    "fn main() {\n    println!(\"{:?}\", vec![1, 2, 3]);\n\tlet x = &mut *y; // TODO: ///path/to/file\n}\n\n\n",
    "{\"a\":[1,2.5e-10,null,true],\"b\":{\"c\":\"d\\n\\u00e9\"}}\r\n",
    "https://example.com/a/b?c=d&e=%20#f //\r\n/\n/ !/\n//x",
    "def f(x):\r\n\treturn x**2\r\n\r\n\r\n  # c\r\n",
    "   leading",
    "trailing   ",
    "a  b   c    d\t\te\t \tf",
    " \n \n\n x",
    "\n\n\n",
    " ",
    "\r",
    "\r\n\r\n  ",
    "\u{a0}\u{a0}x\u{2003}y\u{3000}。\u{200b}\u{200d}\u{feff}z\u{85}\u{2028}\u{2029}w",
    "\0\x01\x02\x1b[31mred\x1b[0m\x7f\u{80}\u{9f}",
    "<|endoftext|><|endofprompt|><|im_start|>",
    "\u{fffd}\u{fffe}\u{ffff}\u{10ffff}\u{e000}",
    "日本Ａｂ語ABC語abcあA あa一A一AA一Aa Aあ AあA",
    "----- ===== ##### ***** ......... !!!???",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa AAAAAAAAAAAAAAAAAAAAAAAAA",
    "0xDEADBEEF 1e10 v1.2.3-rc4 2026-11-27T19:29:21Z +49 30 123456",
];

#[test]
fn texts_of_many_scripts_have_tiktokens_tokens() {
    let mut both = Both::new();
    for text in TEXTS {
        both.compare(text);
        // Cut anywhere, as samples are.
        for (i, _) in text.char_indices() {
            both.compare(&text[i..]);
            both.compare(&text[..i]);
        }
    }
    for unit in [
        "a", "A", " ", "\n", "\t", "\0", "\u{301}", "\n\t ", "=", "é", "一", "ก", "👍", "ab", "aA", "'s", "1", "/",
        "\r\n", "一A", "\u{a0}",
    ] {
        both.compare(&unit.repeat(1000));
        both.compare(&format!("{}x", unit.repeat(99)));
    }
}

#[test]
fn recorded_and_written_texts_have_tiktokens_tokens() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut random = Random(1);
    let mut both = Both::new();
    for path in [
        "tests/fixtures/errors/recorded.jsonl",
        "tests/fixtures/errors/documented.jsonl",
        "Cargo.lock",
        "docs/cli.md",
        "docs/configuration.md",
        "README.md",
        "src/meter/estimate/pieces.rs",
        "src/meter/estimate/vocabulary_tests.rs",
        "deploy/prometheus/alertmanager.yml",
    ] {
        let text = std::fs::read_to_string(root.join(path)).expect(path);
        let mut rest = &text[..text.floor_char_boundary(64 << 10)];
        while !rest.is_empty() {
            let length = 1 + random.next() as usize % (8 << 10);
            let (sample, after) = rest.split_at(rest.ceil_char_boundary(length.min(rest.len())));
            both.compare(sample);
            rest = after;
        }
    }
    assert!(both.tokens > 80_000, "{} tokens compared", both.tokens);
}

#[test]
fn mixtures_have_tiktokens_tokens() {
    let mut random = Random(2);
    let mut below = |most: usize| random.next() as usize % most;
    let mut both = Both::new();
    let of_class: Vec<Vec<char>> = {
        let mut of_class = vec![Vec::new(); 7];
        classes().iter().for_each(|(char, class)| of_class[*class as usize].push(*char));
        of_class
    };
    let special: Vec<char> = "aAsStTrReEvVlLmMdD'ſ \t\r\n/.-_09é\u{301}一あ\u{a0}\u{85}".chars().collect();
    for round in 0..4000 {
        let mut text = String::new();
        for _ in 0..below(60) {
            match below(if round % 2 == 0 { 10 } else { 4 }) {
                0..3 => text.push(special[below(special.len())]),
                3 => {
                    let of_class = &of_class[below(7)];
                    text.push(of_class[below(of_class.len())]);
                }
                // Tokens as they are and cut, whether they are text or not.
                4..9 => {
                    let token = o200k_base_singleton().decode_bytes(&[below(BYTES + PAIRS) as u32]).unwrap();
                    let token = &token[..token.len() - below(2).min(token.len() - 1)];
                    text.push_str(&String::from_utf8_lossy(token));
                }
                _ => {
                    let from = TEXTS[below(TEXTS.len())];
                    let start = from.floor_char_boundary(below(from.len()));
                    text.push_str(&from[start..from.ceil_char_boundary((start + below(12)).min(from.len()))]);
                }
            }
        }
        both.compare(&text);
    }
    assert!(both.tokens > 100_000, "{} tokens compared", both.tokens);
}
