-- Words in every script: what heal.chunk.words and questions have in common. heal_tasks/core/scripts.py does the same in Python.

CREATE FUNCTION heal.spaced(t text) RETURNS text LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
    -- Thai, Lao, Burmese, Khmer, Japanese and Bopomofo, Han, Korean
    letters CONSTANT text :=
        '\u0e01-\u0e30\u0e32\u0e33\u0e40-\u0e46'
        '\u0e81-\u0eb0\u0eb2\u0eb3\u0ebd\u0ec0-\u0ec6\u0edc-\u0edf'
        '\u1000-\u102a\u103f\u1050-\u1055'
        '\u1780-\u17b3\u17d7'
        '\u3005-\u3007\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u3105-\u312f\u31f0-\u31ff'
        '\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af'
        '\uac00-\ud7a3';
    marks CONSTANT text :=
        '\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1\u0eb4-\u0ebc\u0ec8-\u0ece'
        '\u102b-\u103e\u1056-\u1059\u17b4-\u17d3\u17dd\u3099\u309a';
    punctuation CONSTANT text :=
        '\u00a0\u00a1\u00ab\u00b7\u00bb\u00bf\u0387\u0589\u05be\u05c0\u05c3\u060c\u061b\u061f\u066a-\u066d'
        '\u06d4\u0964\u0965\u0e4f\u0e5a\u0e5b\u0f0b-\u0f12\u0f14\u104a-\u104f\u1361-\u1368\u17d4-\u17d6'
        '\u17d8-\u17da\u2000-\u200b\u200e-\u202f\u2030-\u205e\u2190-\u245f\u2500-\u2775\u2794-\u2bff'
        '\u3000-\u3004\u3008-\u3020\u3030\u30fb\ufe10-\ufe19\ufe30-\ufe6b\uff01-\uff0f\uff1a-\uff20'
        '\uff3b-\uff40\uff5b-\uff65\U0001f000-\U0001f0ff\U0001f200-\U0001faff';
    wide CONSTANT text :=
        '０１２３４５６７８９ＡＢＣＤＥＦＧＨＩＪＫＬＭＮＯＰＱＲＳＴＵＶＷＸＹＺａｂｃｄｅｆｇｈｉｊｋｌｍｎｏｐｑｒｓｔｕｖｗｘｙｚ'
        'ｦｧｨｩｪｫｬｭｮｯｰｱｲｳｴｵｶｷｸｹｺｻｼｽｾｿﾀﾁﾂﾃﾄﾅﾆﾇﾈﾉﾊﾋﾌﾍﾎﾏﾐﾑﾒﾓﾔﾕﾖﾗﾘﾙﾚﾛﾜﾝﾞﾟ';
    usual CONSTANT text :=
        '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz'
        'ヲァィゥェォャュョッーアイウエオカキクケコサシスセソタチツテトナニヌネノハヒフヘホマミムメモヤユヨラリルレロワン゙゚';
    letter CONSTANT text := '([' || letters || '][' || marks || ']*)';
    any_before CONSTANT text := '(?<=[' || letters || marks || '])';
    none_before CONSTANT text := '(?<![' || letters || marks || '])';
    any_after CONSTANT text := '(?=[' || letters || '])';
    none_after CONSTANT text := '(?![' || letters || marks || '])';
BEGIN
    IF t ~ ('[' || wide || ']') THEN
        t := translate(t, wide, usual);
    END IF;
    IF t IS NOT NFC NORMALIZED THEN
        t := normalize(t, NFC);
    END IF;
    t := regexp_replace(t, '[' || punctuation || ']', ' ', 'g');
    IF t !~ ('[' || letters || ']') THEN
        RETURN t;
    END IF;
    t := regexp_replace(t, none_before || letter || none_after, ' \1 ', 'g');
    t := regexp_replace(t, none_before || letter || any_after, ' \1 \1', 'g');
    t := regexp_replace(t, any_before || letter || none_after, '\1 \1 ', 'g');
    RETURN regexp_replace(t, any_before || letter || any_after, '\1 \1 \1', 'g');
END $$;
COMMENT ON FUNCTION heal.spaced IS
    'A text with blanks between its words: runs of letters of scripts without blanks, and of Korean, become their letters and overlapping '
    'pairs of letters, punctuation beyond ASCII becomes blanks, and wide letters and composed ones get one form.';

-- Texts in ASCII, which are as long in bytes as in characters, go to the parser as they are.
CREATE FUNCTION heal.to_words(language text, t text) RETURNS tsvector LANGUAGE sql STABLE AS
$$ SELECT to_tsvector(heal.text_config(language), CASE WHEN octet_length(t) = length(t) THEN t ELSE heal.spaced(t) END) $$;
COMMENT ON FUNCTION heal.to_words IS
    'Word stems of a text in a language, a text search configuration, for every script; chunks and questions get theirs by it.';

CREATE OR REPLACE FUNCTION heal.set_words() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    SELECT heal.to_words(d.language, d.title || E'\n' || NEW.text)
    INTO NEW.words FROM heal.document d WHERE d.document_id = NEW.document_id;
    RETURN NEW;
END $$;

UPDATE heal.chunk c SET text = c.text
FROM heal.document d
WHERE d.document_id = c.document_id AND octet_length(d.title || c.text) > length(d.title || c.text)
AND heal.spaced(d.title || E'\n' || c.text) <> d.title || E'\n' || c.text;
