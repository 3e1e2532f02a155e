-- A history as version 1 wrote it; what it held has to be there in every version to come.
PRAGMA user_version = 1;
BEGIN TRANSACTION;
CREATE TABLE growing (  -- answers that are still being written
            id TEXT PRIMARY KEY,
            session TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
            parent TEXT REFERENCES messages (id),
            before TEXT,  -- the head to go back to if nothing is said
            replaces TEXT,
            role TEXT NOT NULL,
            content TEXT NOT NULL,
            thinking TEXT NOT NULL,
            model TEXT NOT NULL,
            created REAL NOT NULL,
            seconds BLOB NOT NULL,
            facts TEXT NOT NULL,
            pid INTEGER NOT NULL,  -- of the process that writes it
            born REAL NOT NULL  -- when that process began
        ) WITHOUT ROWID
        ;
INSERT INTO "growing" VALUES('5f3a9c0011223344','p3wd9n5t','a61bb565d07c7e6dbbcc57d0b1b0bc0c','a61bb565d07c7e6dbbcc57d0b1b0bc0c',NULL,'assistant','One, tw','','mlxarch guide',1764316870.0,X'6632','{}',999999,1.0);
CREATE TABLE members (  -- which messages are a session's; forks share them
            session TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
            message INTEGER NOT NULL REFERENCES messages (number) ON DELETE CASCADE,
            PRIMARY KEY (session, message)
        ) WITHOUT ROWID
        ;
INSERT INTO "members" VALUES('k7m2qxab',1);
INSERT INTO "members" VALUES('k7m2qxab',2);
INSERT INTO "members" VALUES('k7m2qxab',3);
INSERT INTO "members" VALUES('p3wd9n5t',4);
CREATE TABLE messages (
            number INTEGER PRIMARY KEY AUTOINCREMENT,
            id TEXT NOT NULL UNIQUE,
            parent TEXT REFERENCES messages (id),
            role TEXT NOT NULL,
            content TEXT NOT NULL,
            thinking TEXT NOT NULL,
            model TEXT NOT NULL,
            created REAL NOT NULL,
            ended TEXT,
            seconds BLOB NOT NULL,
            facts TEXT NOT NULL
        );
INSERT INTO "messages" VALUES(1,'8b5029b05f672270bf8632d76f90ea90',NULL,'user','What is MLX?','','',1764316807.0,NULL,X'','{}');
INSERT INTO "messages" VALUES(2,'417427aa05e11a9321658e1f6def6494','8b5029b05f672270bf8632d76f90ea90','assistant','An array','hm','mlxarch guide',1764316821.0,'cancelled',X'66321F21','{}');
INSERT INTO "messages" VALUES(3,'05373198000923dda2dde055019b0b47','8b5029b05f672270bf8632d76f90ea90','assistant','An array library.','hm','mlxarch guide',1764316835.0,'stop',X'66321F216622','{"stats": {"prompt_tokens": 12}}');
INSERT INTO "messages" VALUES(4,'a61bb565d07c7e6dbbcc57d0b1b0bc0c',NULL,'user','Count','','',1764316856.0,NULL,X'','{}');
CREATE TABLE sessions (
            id TEXT PRIMARY KEY,
            title TEXT NOT NULL DEFAULT '',  -- as a person named it
            model TEXT NOT NULL,
            system TEXT,
            created REAL NOT NULL,
            updated REAL NOT NULL,
            head TEXT REFERENCES messages (id),
            draft TEXT NOT NULL DEFAULT '',  -- of the next question
            settings TEXT NOT NULL
        ) WITHOUT ROWID
        ;
INSERT INTO "sessions" VALUES('k7m2qxab','Arrays','mlxarch guide','Be brief.',1764316814.0,1764316849.0,'05373198000923dda2dde055019b0b47','and then','{"temperature": 0.5}');
INSERT INTO "sessions" VALUES('p3wd9n5t','','mlxarch guide',NULL,1764316863.0,1764316870.0,'a61bb565d07c7e6dbbcc57d0b1b0bc0c','','{}');
CREATE INDEX messages_parent ON messages (parent);
CREATE INDEX sessions_head ON sessions (head);
CREATE INDEX members_message ON members (message);
CREATE VIEW searchable AS
        SELECT
            number,
            CASE role WHEN 'user' THEN content ELSE '' END AS prompt,
            CASE role WHEN 'user' THEN '' ELSE content END AS answer
        FROM messages;
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('messages',4);
COMMIT;
CREATE VIRTUAL TABLE words USING fts5 (prompt, answer, content = 'searchable', content_rowid = 'number', tokenize = 'unicode61 remove_diacritics 2');
INSERT INTO words (words, rank) VALUES ('rank', 'bm25(4.0, 1.0)');
INSERT INTO words (words) VALUES ('rebuild');
