-- A database of the first release: never edit it.
BEGIN TRANSACTION;
CREATE TABLE artifacts (
	id VARCHAR(128) NOT NULL, 
	job_id VARCHAR(36), 
	key_id TEXT, 
	kind VARCHAR(16) NOT NULL, 
	name TEXT NOT NULL, 
	content_type TEXT NOT NULL, 
	size BIGINT NOT NULL, 
	sha256 VARCHAR(64) NOT NULL, 
	width INTEGER, 
	height INTEGER, 
	frames INTEGER, 
	fps FLOAT, 
	created_at FLOAT NOT NULL, 
	expires_at FLOAT, 
	PRIMARY KEY (id), 
	FOREIGN KEY(job_id) REFERENCES jobs (id) ON DELETE CASCADE
);
INSERT INTO "artifacts" VALUES('pixels-96x64-abc',NULL,NULL,'pixels','pixels','application/octet-stream',18432,'abc',96,64,NULL,NULL,1000.0,NULL);
INSERT INTO "artifacts" VALUES('0123','done',NULL,'video','video.mp4','video/mp4',7,'def',NULL,NULL,NULL,NULL,1005.0,NULL);
CREATE TABLE jobs (
	seq INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	id VARCHAR(36) NOT NULL, 
	endpoint TEXT NOT NULL, 
	key_id TEXT, 
	base_url TEXT NOT NULL, 
	status VARCHAR(16) NOT NULL, 
	priority INTEGER NOT NULL, 
	attempt INTEGER NOT NULL, 
	worker_deaths INTEGER NOT NULL, 
	cancel_requested BOOLEAN NOT NULL, 
	input JSON NOT NULL, 
	input_refs JSON, 
	tier TEXT, 
	slot TEXT, 
	claimed_by TEXT, 
	lease_until FLOAT, 
	not_before FLOAT, 
	store_io BOOLEAN NOT NULL, 
	expires_at FLOAT, 
	submitted_at FLOAT NOT NULL, 
	started_at FLOAT, 
	finished_at FLOAT, 
	result JSON, 
	error JSON, 
	http_status INTEGER, 
	webhook_url TEXT, 
	idempotency_key TEXT, 
	body_sha256 VARCHAR(64), 
	start_by FLOAT, 
	no_retry BOOLEAN NOT NULL, 
	file_lifetime_s FLOAT, 
	is_run BOOLEAN NOT NULL, 
	UNIQUE (key_id, idempotency_key), 
	UNIQUE (id)
);
INSERT INTO "jobs" VALUES(1,'done','fal-ai/cosmos-predict-2.5/image-to-video','alice','http://localhost:8000','COMPLETED',0,1,0,0,'{"spec": {}, "media": {}, "sync_mode": false}','{"image": "pixels-96x64-abc"}','exact','cpu','first',NULL,NULL,1,NULL,1000.0,1000.0,1005.0,'{"video": {"artifact": "0123"}, "seed": 3, "tier": "exact", "stage_seconds": {}}',NULL,200,'https://example.com/hook',NULL,NULL,NULL,0,NULL,0);
INSERT INTO "jobs" VALUES(2,'waiting','fal-ai/cosmos-predict-2.5/image-to-video','alice','http://localhost:8000','IN_QUEUE',0,0,0,0,'{"spec": {}, "media": {}, "sync_mode": false}','{"image": "pixels-96x64-abc"}','exact',NULL,NULL,NULL,NULL,1,NULL,1005.0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,0,NULL,0);
CREATE TABLE keys (
	id TEXT NOT NULL, 
	secret_sha256 VARCHAR(64) NOT NULL, 
	name TEXT NOT NULL, 
	scopes JSON NOT NULL, 
	created_at FLOAT NOT NULL, 
	expires_at FLOAT, 
	revoked_at FLOAT, 
	last_used_at FLOAT, 
	PRIMARY KEY (id)
);
INSERT INTO "keys" VALUES('alice','2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b','first','["files", "run"]',1000.0,NULL,NULL,NULL);
CREATE TABLE logs (
	id INTEGER NOT NULL, 
	job_id VARCHAR(36) NOT NULL, 
	attempt INTEGER NOT NULL, 
	at FLOAT NOT NULL, 
	level VARCHAR(16) NOT NULL, 
	message TEXT NOT NULL, 
	PRIMARY KEY (id), 
	FOREIGN KEY(job_id) REFERENCES jobs (id) ON DELETE CASCADE
);
INSERT INTO "logs" VALUES(1,'done',1,1001.0,'INFO','Started on cpu');
CREATE TABLE progress (
	job_id VARCHAR(36) NOT NULL, 
	attempt INTEGER NOT NULL, 
	stage VARCHAR(16) NOT NULL, 
	step INTEGER, 
	num_steps INTEGER, 
	seconds_left FLOAT, 
	updated_at FLOAT NOT NULL, 
	PRIMARY KEY (job_id), 
	FOREIGN KEY(job_id) REFERENCES jobs (id) ON DELETE CASCADE
);
INSERT INTO "progress" VALUES('done',1,'denoise',1,2,3.0,1000.0);
CREATE TABLE upload_parts (
	upload_id VARCHAR(64) NOT NULL, 
	number INTEGER NOT NULL, 
	file_id VARCHAR(128) NOT NULL, 
	size BIGINT NOT NULL, 
	sha256 VARCHAR(64) NOT NULL, 
	PRIMARY KEY (upload_id, number), 
	FOREIGN KEY(upload_id) REFERENCES uploads (id) ON DELETE CASCADE
);
CREATE TABLE uploads (
	id VARCHAR(64) NOT NULL, 
	key_id TEXT, 
	file_id VARCHAR(128) NOT NULL, 
	file_name TEXT NOT NULL, 
	content_type TEXT NOT NULL, 
	max_size BIGINT NOT NULL, 
	in_parts BOOLEAN NOT NULL, 
	lifetime_s FLOAT, 
	expires_at FLOAT NOT NULL, 
	closed_at FLOAT, 
	PRIMARY KEY (id)
);
CREATE TABLE webhooks (
	id INTEGER NOT NULL, 
	job_id VARCHAR(36) NOT NULL, 
	url TEXT NOT NULL, 
	receiver TEXT NOT NULL, 
	tries INTEGER NOT NULL, 
	created_at FLOAT NOT NULL, 
	not_before FLOAT, 
	claimed_by TEXT, 
	lease_until FLOAT, 
	delivered_at FLOAT, 
	given_up_at FLOAT, 
	last_error TEXT, 
	PRIMARY KEY (id), 
	UNIQUE (job_id), 
	FOREIGN KEY(job_id) REFERENCES jobs (id) ON DELETE CASCADE
);
INSERT INTO "webhooks" VALUES(1,'done','https://example.com/hook','example.com',0,1005.0,1005.0,NULL,NULL,NULL,NULL,NULL);
CREATE INDEX jobs_by_place ON jobs (status, priority, seq);
CREATE INDEX jobs_by_end ON jobs (finished_at);
CREATE INDEX artifacts_by_job ON artifacts (job_id);
CREATE INDEX ix_webhooks_not_before ON webhooks (not_before);
CREATE INDEX logs_by_job ON logs (job_id, id);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('jobs',2);
COMMIT;
