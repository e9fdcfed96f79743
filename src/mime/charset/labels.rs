//! Every name of a character set that mail-parser knows, by what it means: each is read right
//! however it is written, or the text is refused; none is read as something else in silence.

use mail_parser::decoders::charsets::map::charset_decoder;

use super::{Reading, decode};

/// How many names mail-parser knows.
const LABELS: usize = 252;

/// A character set: its names, divided by spaces; octets in it, as Python's codecs write
/// them; and the same as text.
type Set = (&'static str, &'static [u8], &'static str);

const READ: [Set; 41] = [
    ("big5 big5_hkscs cn_big5 csbig5 x_x_big5", b"Hi 42 \xa4\xa4\xa4\xe5", "Hi 42 \u{4e2d}\u{6587}"),
    (
        "chinese cp936 csgb2312 csgbk csiso58gb231280 gb_2312 gb_2312_80 gbk iso_ir_58 ms936 \
         windows_936 x_gbk",
        b"Hi 42 \xd6\xd0\xce\xc4",
        "Hi 42 \u{4e2d}\u{6587}",
    ),
    ("csgb18030 gb18030 gb2312", b"Hi 42 \xd6\xd0\xce\xc4", "Hi 42 \u{4e2d}\u{6587}"),
    (
        "cseuckr csksc56011987 euc_kr iso_ir_149 korean ks_c_5601_1987 ks_c_5601_1989 ksc5601 \
         ksc_5601 windows_949",
        b"Hi 42 \xc7\xd1\xb1\xdb",
        "Hi 42 \u{d55c}\u{ae00}",
    ),
    (
        "cseucpkdfmtjapanese euc_jp extended_unix_code_packed_format_for_japanese x_euc_jp",
        b"Hi 42 \xc6\xfc\xcb\xdc",
        "Hi 42 \u{65e5}\u{672c}",
    ),
    (
        "csshiftjis ms932 ms_kanji shift_jis sjis windows_31j x_sjis",
        b"Hi 42 \x93\xfa\x96{",
        "Hi 42 \u{65e5}\u{672c}",
    ),
    ("csiso2022jp iso_2022_jp", b"Hi 42 \x1b$BF|K\x5c\x1b(B", "Hi 42 \u{65e5}\u{672c}"),
    (
        "cp1250 cswindows1250 windows_1250 x_cp1250",
        b"Hi 42 Za\xbf\xf3\xb3\xe6",
        "Hi 42 Za\u{17c}\u{f3}\u{142}\u{107}",
    ),
    (
        "cp1251 cswindows1251 windows_1251 x_cp1251",
        b"Hi 42 \xcf\xf0\xe8\xe2\xe5\xf2",
        "Hi 42 \u{41f}\u{440}\u{438}\u{432}\u{435}\u{442}",
    ),
    (
        "ansi_x3.4_1968 ascii cp1252 cp819 csisolatin1 cswindows1252 ibm819 iso88591 iso8859_1 \
         iso_8859_1 iso_8859_1:1987 iso_ir_100 l1 latin1 us_ascii windows_1252 x_cp1252",
        b"Hi 42 Gr\xfc\xdfe",
        "Hi 42 Gr\u{fc}\u{df}e",
    ),
    (
        "cp1253 cswindows1253 windows_1253 x_cp1253",
        b"Hi 42 \xc3\xe5\xe9\xdc",
        "Hi 42 \u{393}\u{3b5}\u{3b9}\u{3ac}",
    ),
    ("cp1254 cswindows1254 windows_1254 x_cp1254", b"Hi 42 I\xfe\xfdk", "Hi 42 I\u{15f}\u{131}k"),
    (
        "cp1255 cswindows1255 windows_1255 x_cp1255",
        b"Hi 42 \xf9\xec\xe5\xed",
        "Hi 42 \u{5e9}\u{5dc}\u{5d5}\u{5dd}",
    ),
    (
        "cp1256 cswindows1256 windows_1256 x_cp1256",
        b"Hi 42 \xd3\xe1\xc7\xe3",
        "Hi 42 \u{633}\u{644}\u{627}\u{645}",
    ),
    ("cp1257 cswindows1257 windows_1257 x_cp1257", b"Hi 42 \xc0\xfeuolas", "Hi 42 \u{104}\u{17e}uolas"),
    ("cp1258 cswindows1258 windows_1258 x_cp1258", b"Hi 42 \xf0\xfd\xf5", "Hi 42 \u{111}\u{1b0}\u{1a1}"),
    (
        "csisolatin2 iso88592 iso8859_2 iso_8859_2 iso_8859_2:1987 iso_ir_101 l2 latin2",
        b"Hi 42 Za\xbf\xf3\xb3\xe6",
        "Hi 42 Za\u{17c}\u{f3}\u{142}\u{107}",
    ),
    (
        "csisolatin3 iso88593 iso8859_3 iso_8859_3 iso_8859_3:1988 iso_ir_109 l3 latin3",
        b"Hi 42 \xc6u \xf8i",
        "Hi 42 \u{108}u \u{11d}i",
    ),
    (
        "csisolatin4 iso88594 iso8859_4 iso_8859_4 iso_8859_4:1988 iso_ir_110 l4 latin4",
        b"Hi 42 \xd3\xbade",
        "Hi 42 \u{136}\u{113}de",
    ),
    (
        "csisolatincyrillic cyrillic iso88595 iso8859_5 iso_8859_5 iso_8859_5:1988 iso_ir_144",
        b"Hi 42 \xbf\xe0\xd8\xd2\xd5\xe2",
        "Hi 42 \u{41f}\u{440}\u{438}\u{432}\u{435}\u{442}",
    ),
    (
        "arabic asmo_708 csiso88596e csiso88596i csisolatinarabic ecma_114 iso88596 iso8859_6 \
         iso_8859_6 iso_8859_6:1987 iso_8859_6_e iso_8859_6_i iso_ir_127",
        b"Hi 42 \xd3\xe4\xc7\xe5",
        "Hi 42 \u{633}\u{644}\u{627}\u{645}",
    ),
    (
        "csisolatingreek ecma_118 elot_928 greek greek8 iso88597 iso8859_7 iso_8859_7 \
         iso_8859_7:1987 iso_ir_126 sun_eu_greek",
        b"Hi 42 \xc3\xe5\xe9\xdc",
        "Hi 42 \u{393}\u{3b5}\u{3b9}\u{3ac}",
    ),
    (
        "csiso88598e csiso88598i csisolatinhebrew hebrew iso88598 iso8859_8 iso_8859_8 \
         iso_8859_8:1988 iso_8859_8_e iso_8859_8_i iso_ir_138 logical visual",
        b"Hi 42 \xf9\xec\xe5\xed",
        "Hi 42 \u{5e9}\u{5dc}\u{5d5}\u{5dd}",
    ),
    (
        "csisolatin5 iso88599 iso8859_9 iso_8859_9 iso_8859_9:1989 iso_ir_148 l5 latin5",
        b"Hi 42 I\xfe\xfdk",
        "Hi 42 I\u{15f}\u{131}k",
    ),
    (
        "csisolatin6 iso885910 iso8859_10 iso_8859_10 iso_8859_10:1992 iso_ir_157 l6 latin6",
        b"Hi 42 \xdeorn \xb3",
        "Hi 42 \u{de}orn \u{123}",
    ),
    ("csiso885913 iso885913 iso8859_13 iso_8859_13", b"Hi 42 \xc0\xfeuolas", "Hi 42 \u{104}\u{17e}uolas"),
    (
        "csiso885914 iso885914 iso8859_14 iso_8859_14 iso_8859_14:1998 iso_celtic iso_ir_199 l8 \
         latin8",
        b"Hi 42 \xd0yn \xb8",
        "Hi 42 \u{174}yn \u{1e81}",
    ),
    (
        "csiso885915 csisolatin9 iso885915 iso8859_15 iso_8859_15 l9 latin_9",
        b"Hi 42 \xbcuvre \xa4",
        "Hi 42 \u{152}uvre \u{20ac}",
    ),
    (
        "csiso885916 iso_8859_16 iso_8859_16:2001 iso_ir_226 l10 latin10",
        b"Hi 42 \xdear\xe3 \xa4",
        "Hi 42 \u{21a}ar\u{103} \u{20ac}",
    ),
    (
        "cskoi8r koi koi8 koi8_r",
        b"Hi 42 \xf0\xd2\xc9\xd7\xc5\xd4",
        "Hi 42 \u{41f}\u{440}\u{438}\u{432}\u{435}\u{442}",
    ),
    ("cskoi8u koi8_ru koi8_u", b"Hi 42 \xbd\xc1\xce\xcf\xcb", "Hi 42 \u{490}\u{430}\u{43d}\u{43e}\u{43a}"),
    ("csmacintosh mac macintosh x_mac_roman", b"Hi 42 Gr\x9f\xa7e", "Hi 42 Gr\u{fc}\u{df}e"),
    (
        "x_mac_cyrillic x_mac_ukrainian",
        b"Hi 42 \x8f\xf0\xe8\xe2\xe5\xf2",
        "Hi 42 \u{41f}\u{440}\u{438}\u{432}\u{435}\u{442}",
    ),
    ("850 cp850 cspc850multilingual ibm850", b"Hi 42 Gr\x81\xe1e", "Hi 42 Gr\u{fc}\u{df}e"),
    (
        "866 cp866 csibm866 ibm866",
        b"Hi 42 \x8f\xe0\xa8\xa2\xa5\xe2",
        "Hi 42 \u{41f}\u{440}\u{438}\u{432}\u{435}\u{442}",
    ),
    (
        "cstis620 iso885911 iso8859_11 iso_8859_11 tis_620",
        b"Hi 42 \xe4\xb7\xc2",
        "Hi 42 \u{e44}\u{e17}\u{e22}",
    ),
    ("cswindows874 dos_874 windows_874", b"Hi 42 \xe4\xb7\xc2", "Hi 42 \u{e44}\u{e17}\u{e22}"),
    (
        "csunicode csutf16 iso_10646_ucs_2 ucs_2 unicode unicodefeff utf_16",
        b"\xff\xfeH\0i\0 \x004\x002\0 \0\xfc\0\xe5e",
        "Hi 42 \u{fc}\u{65e5}",
    ),
    ("csutf16be unicodefffe utf_16be", b"\0H\0i\0 \x004\x002\0 \0\xfce\xe5", "Hi 42 \u{fc}\u{65e5}"),
    ("csutf16le utf_16le", b"H\0i\0 \x004\x002\0 \0\xfc\0\xe5e", "Hi 42 \u{fc}\u{65e5}"),
    ("csutf7 utf_7", b"Hi 42 +APxl5Q-", "Hi 42 \u{fc}\u{65e5}"),
];

/// Those that nobody reads, and what looks like ASCII in them or means what nobody knows.
const REFUSED: [(&str, &[u8]); 7] = [
    ("csiso2022kr", b"\x1b$)C\x0eGQ\x0f"),
    ("iso_2022_kr", b"\x1b$)C\x0eGQ\x0f"),
    ("iso_2022_cn", b"\x1b$)A\x0eVP\x0f"),
    ("iso_2022_cn_ext", b"\x1b$)A\x0eVP\x0f"),
    ("hz_gb_2312", b"Hi ~{VPND~}"),
    ("replacement", b"Hi"),
    ("x_user_defined", b"Hi \xc1"),
];

/// As mail-parser has it, with hyphens, and in capitals.
fn writings(label: &str) -> [String; 3] {
    [label.to_owned(), label.replace('_', "-"), label.to_uppercase()]
}

#[test]
fn every_name_is_read_as_what_it_means_or_not_at_all() {
    let mut known = 0;
    for (labels, octets, text) in READ {
        for label in labels.split(' ') {
            assert!(charset_decoder(label.as_bytes()).is_some(), "{label}");
            known += 1;
            for name in writings(label) {
                let read = decode(&name, octets).unwrap_or_else(|| panic!("{name} is not read"));
                assert_eq!(read.text.trim_start_matches('\u{feff}'), text, "{name}");
                assert_ne!(read.reading, Reading::Replaced, "{name}");
                if octets.starts_with(b"Hi 42") {
                    let ascii = decode(&name, b"Hi 42").map(|read| (read.text, read.reading));
                    assert_eq!(ascii, Some(("Hi 42".to_owned(), Reading::Exact)), "{name}");
                }
            }
        }
    }
    for (label, octets) in REFUSED {
        assert!(charset_decoder(label.as_bytes()).is_some(), "{label}");
        known += 1;
        for name in writings(label) {
            assert_eq!(decode(&name, octets), None, "{name}");
        }
    }
    assert_eq!(known, LABELS);
}

#[test]
fn what_a_name_leaves_open_is_told_under_every_writing_of_it() {
    for label in ["us_ascii", "ascii", "ansi_x3.4_1968"] {
        for name in writings(label) {
            let read = decode(&name, b"gr\xfcn").unwrap();
            assert_eq!(
                (read.text.as_str(), read.reading),
                ("gr\u{fc}n", Reading::Assumed("Windows-1252")),
                "{name}"
            );
        }
    }
    for label in ["utf_16", "csutf16", "csunicode", "iso_10646_ucs_2", "ucs_2", "unicode", "unicodefeff"] {
        for name in writings(label) {
            let read = decode(&name, b"a\0").unwrap();
            assert_eq!((read.text.as_str(), read.reading), ("a", Reading::Assumed("UTF-16LE")), "{name}");
            let read = decode(&name, b"\xfe\xff\0a").unwrap();
            assert_eq!((read.text.as_str(), read.reading), ("\u{feff}a", Reading::Exact), "{name}");
        }
    }
}

#[test]
fn what_a_set_of_windows_has_beyond_one_of_iso_is_told() {
    let table = [("iso-8859-1", "Windows-1252"), ("latin5", "Windows-1254"), ("tis-620", "Windows-874")];
    for (name, windows) in table {
        let read = decode(name, b"\x80").unwrap();
        assert_eq!((read.text.as_str(), read.reading), ("\u{20ac}", Reading::Assumed(windows)), "{name}");
        assert_eq!(decode(windows, b"\x80").unwrap().reading, Reading::Exact);
    }
}

#[test]
fn every_octet_of_iso_8859_16_is_the_same_under_all_its_names() {
    for octet in 0xa0..=0xff {
        for name in ["l10", "latin10", "csISO885916", "iso-ir-226", "ISO_8859-16:2001"] {
            assert_eq!(decode(name, &[octet]), decode("iso-8859-16", &[octet]), "{name} {octet:x}");
        }
    }
    assert_eq!(decode("l10", b"\xa5\xab").unwrap().text, "\u{201e}\u{ab}");
}
