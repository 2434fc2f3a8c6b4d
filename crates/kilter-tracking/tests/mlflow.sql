-- The tables of MLflow 3.17's SQLite file that hold what is brought over, and one that is not.
CREATE TABLE experiments ( experiment_id INTEGER NOT NULL, name VARCHAR(256) NOT NULL, workspace VARCHAR(63) DEFAULT 'default' NOT NULL,
    artifact_location VARCHAR(256), lifecycle_stage VARCHAR(32), creation_time BIGINT, last_update_time BIGINT, CONSTRAINT experiment_pk PRIMARY KEY
    (experiment_id), CONSTRAINT experiments_lifecycle_stage CHECK (lifecycle_stage IN ('active', 'deleted')), CONSTRAINT uq_experiments_workspace_name
    UNIQUE (workspace, name) );
CREATE TABLE experiment_tags ( "key" VARCHAR(250) NOT NULL, value TEXT, experiment_id INTEGER NOT NULL, CONSTRAINT experiment_tag_pk PRIMARY KEY
    ("key", experiment_id), FOREIGN KEY(experiment_id) REFERENCES experiments (experiment_id) );
CREATE TABLE runs ( run_uuid VARCHAR(32) NOT NULL, name VARCHAR(250), source_type VARCHAR(20), source_name VARCHAR(500), entry_point_name VARCHAR(50),
    user_id VARCHAR(256), status VARCHAR(20), start_time BIGINT, end_time BIGINT, deleted_time BIGINT, source_version VARCHAR(50), lifecycle_stage
    VARCHAR(20), artifact_uri VARCHAR(200), experiment_id INTEGER, CONSTRAINT run_pk PRIMARY KEY (run_uuid), CONSTRAINT source_type CHECK (source_type
    IN ('NOTEBOOK', 'JOB', 'LOCAL', 'UNKNOWN', 'PROJECT')), CHECK (status IN ('SCHEDULED', 'FAILED', 'FINISHED', 'RUNNING', 'KILLED')), CONSTRAINT
    runs_lifecycle_stage CHECK (lifecycle_stage IN ('active', 'deleted')), FOREIGN KEY(experiment_id) REFERENCES experiments (experiment_id) );
CREATE TABLE params ( "key" VARCHAR(250) NOT NULL, value VARCHAR(8000) NOT NULL, run_uuid VARCHAR(32) NOT NULL, CONSTRAINT param_pk PRIMARY KEY
    ("key", run_uuid), FOREIGN KEY(run_uuid) REFERENCES runs (run_uuid) );
CREATE TABLE tags ( "key" VARCHAR(250) NOT NULL, value VARCHAR(8000), run_uuid VARCHAR(32) NOT NULL, CONSTRAINT tag_pk PRIMARY KEY ("key", run_uuid),
    FOREIGN KEY(run_uuid) REFERENCES runs (run_uuid) );
CREATE TABLE metrics ( "key" VARCHAR(250) NOT NULL, value FLOAT NOT NULL, timestamp BIGINT NOT NULL, step BIGINT NOT NULL, is_nan BOOLEAN NOT NULL,
    run_uuid VARCHAR(32) NOT NULL, CONSTRAINT metric_pk PRIMARY KEY ("key", timestamp, step, run_uuid, value, is_nan), CHECK (is_nan IN (0, 1)),
    FOREIGN KEY(run_uuid) REFERENCES runs (run_uuid) );
CREATE TABLE latest_metrics ( "key" VARCHAR(250) NOT NULL, value FLOAT NOT NULL, timestamp BIGINT, step BIGINT NOT NULL, is_nan BOOLEAN NOT NULL,
    run_uuid VARCHAR(32) NOT NULL, CONSTRAINT latest_metric_pk PRIMARY KEY ("key", run_uuid), CHECK (is_nan IN (0, 1)), FOREIGN KEY(run_uuid)
    REFERENCES runs (run_uuid) );
CREATE TABLE datasets ( dataset_uuid VARCHAR(36) NOT NULL, experiment_id INTEGER NOT NULL, name VARCHAR(500) NOT NULL, digest VARCHAR(36) NOT NULL,
    dataset_source_type VARCHAR(36) NOT NULL, dataset_source TEXT NOT NULL, dataset_schema TEXT, dataset_profile TEXT, CONSTRAINT dataset_pk PRIMARY
    KEY (experiment_id, name, digest), FOREIGN KEY(experiment_id) REFERENCES experiments (experiment_id) ON DELETE CASCADE );
CREATE TABLE inputs ( input_uuid VARCHAR(36) NOT NULL, source_type VARCHAR(36) NOT NULL, source_id VARCHAR(36) NOT NULL, destination_type VARCHAR(36)
    NOT NULL, destination_id VARCHAR(36) NOT NULL, step BIGINT DEFAULT '0' NOT NULL, CONSTRAINT inputs_pk PRIMARY KEY (source_type, source_id,
    destination_type, destination_id) );
CREATE TABLE input_tags ( input_uuid VARCHAR(36) NOT NULL, name VARCHAR(255) NOT NULL, value VARCHAR(500) NOT NULL, CONSTRAINT input_tags_pk PRIMARY
    KEY (input_uuid, name), FOREIGN KEY(input_uuid) REFERENCES inputs (input_uuid) );
CREATE TABLE logged_models ( model_id VARCHAR(36) NOT NULL, experiment_id INTEGER NOT NULL, name VARCHAR(500) NOT NULL, artifact_location
    VARCHAR(1000) NOT NULL, creation_timestamp_ms BIGINT NOT NULL, last_updated_timestamp_ms BIGINT NOT NULL, status INTEGER NOT NULL, lifecycle_stage
    VARCHAR(32), model_type VARCHAR(500), source_run_id VARCHAR(32), status_message VARCHAR(1000), CONSTRAINT logged_models_pk PRIMARY KEY (model_id),
    CONSTRAINT logged_models_lifecycle_stage_check CHECK (lifecycle_stage IN ('active', 'deleted')), CONSTRAINT fk_logged_models_experiment_id FOREIGN
    KEY(experiment_id) REFERENCES experiments (experiment_id) ON DELETE CASCADE );
CREATE TABLE logged_model_params ( model_id VARCHAR(36) NOT NULL, experiment_id INTEGER NOT NULL, param_key VARCHAR(255) NOT NULL, param_value TEXT
    NOT NULL, CONSTRAINT logged_model_params_pk PRIMARY KEY (model_id, param_key), CONSTRAINT fk_logged_model_params_model_id FOREIGN KEY(model_id)
    REFERENCES logged_models (model_id) ON DELETE CASCADE, CONSTRAINT fk_logged_model_params_experiment_id FOREIGN KEY(experiment_id) REFERENCES
    experiments (experiment_id) );
CREATE TABLE logged_model_tags ( model_id VARCHAR(36) NOT NULL, experiment_id INTEGER NOT NULL, tag_key VARCHAR(255) NOT NULL, tag_value TEXT NOT
    NULL, CONSTRAINT logged_model_tags_pk PRIMARY KEY (model_id, tag_key), CONSTRAINT fk_logged_model_tags_model_id FOREIGN KEY(model_id) REFERENCES
    logged_models (model_id) ON DELETE CASCADE, CONSTRAINT fk_logged_model_tags_experiment_id FOREIGN KEY(experiment_id) REFERENCES experiments
    (experiment_id) );
CREATE TABLE logged_model_metrics ( model_id VARCHAR(36) NOT NULL, metric_name VARCHAR(500) NOT NULL, metric_timestamp_ms BIGINT NOT NULL, metric_step
    BIGINT NOT NULL, metric_value FLOAT, experiment_id INTEGER NOT NULL, run_id VARCHAR(32) NOT NULL, dataset_uuid VARCHAR(36), dataset_name
    VARCHAR(500), dataset_digest VARCHAR(36), CONSTRAINT logged_model_metrics_pk PRIMARY KEY (model_id, metric_name, metric_timestamp_ms, metric_step,
    run_id), CONSTRAINT fk_logged_model_metrics_model_id FOREIGN KEY(model_id) REFERENCES logged_models (model_id) ON DELETE CASCADE, CONSTRAINT
    fk_logged_model_metrics_experiment_id FOREIGN KEY(experiment_id) REFERENCES experiments (experiment_id), CONSTRAINT fk_logged_model_metrics_run_id
    FOREIGN KEY(run_id) REFERENCES runs (run_uuid) ON DELETE CASCADE );
CREATE TABLE registered_models ( workspace VARCHAR(63) DEFAULT 'default' NOT NULL, name VARCHAR(256) NOT NULL, creation_time BIGINT, last_updated_time
    BIGINT, description VARCHAR(5000), CONSTRAINT registered_model_pk PRIMARY KEY (workspace, name) );
CREATE TABLE registered_model_tags ( workspace VARCHAR(63) DEFAULT 'default' NOT NULL, name VARCHAR(256) NOT NULL, "key" VARCHAR(250) NOT NULL, value
    VARCHAR(5000), CONSTRAINT registered_model_tag_pk PRIMARY KEY (workspace, "key", name), FOREIGN KEY(workspace, name) REFERENCES registered_models
    (workspace, name) ON UPDATE cascade );
CREATE TABLE model_versions ( workspace VARCHAR(63) DEFAULT 'default' NOT NULL, name VARCHAR(256) NOT NULL, version INTEGER NOT NULL, creation_time
    BIGINT, last_updated_time BIGINT, description VARCHAR(5000), user_id VARCHAR(256), current_stage VARCHAR(20), source VARCHAR(500),
    storage_location VARCHAR(500), run_id VARCHAR(32), run_link VARCHAR(500), status VARCHAR(20), status_message VARCHAR(500), CONSTRAINT
    model_version_pk PRIMARY KEY (workspace, name, version), FOREIGN KEY(workspace, name) REFERENCES registered_models (workspace, name) ON UPDATE
    cascade );
CREATE TABLE model_version_tags ( workspace VARCHAR(63) DEFAULT 'default' NOT NULL, name VARCHAR(256) NOT NULL, version INTEGER NOT NULL, "key"
    VARCHAR(250) NOT NULL, value TEXT, CONSTRAINT model_version_tag_pk PRIMARY KEY (workspace, "key", name, version), FOREIGN KEY(workspace, name,
    version) REFERENCES model_versions (workspace, name, version) ON UPDATE cascade );
CREATE TABLE registered_model_aliases ( workspace VARCHAR(63) DEFAULT 'default' NOT NULL, name VARCHAR(256) NOT NULL, alias VARCHAR(256) NOT NULL,
    version INTEGER NOT NULL, CONSTRAINT registered_model_alias_pk PRIMARY KEY (workspace, name, alias), CONSTRAINT
    registered_model_alias_registered_model_fkey FOREIGN KEY(workspace, name) REFERENCES registered_models (workspace, name) ON DELETE cascade ON
    UPDATE cascade );
CREATE TABLE trace_info ( request_id VARCHAR(50) NOT NULL, experiment_id INTEGER NOT NULL, timestamp_ms BIGINT NOT NULL, execution_time_ms BIGINT,
    status VARCHAR(50) NOT NULL, client_request_id VARCHAR(50), request_preview VARCHAR(1000), response_preview VARCHAR(1000), db_payload_generation
    INTEGER DEFAULT '0' NOT NULL, trace_name VARCHAR(4096), session_id VARCHAR(250), input_tokens BIGINT, output_tokens BIGINT, total_tokens BIGINT,
    cache_read_input_tokens BIGINT, cache_creation_input_tokens BIGINT, cache_creation_input_tokens_above_1hr BIGINT, input_cost FLOAT, output_cost
    FLOAT, total_cost FLOAT, CONSTRAINT trace_info_pk PRIMARY KEY (request_id), FOREIGN KEY(experiment_id) REFERENCES experiments (experiment_id) ON
    DELETE CASCADE );
CREATE TABLE trace_tags ( "key" VARCHAR(250) NOT NULL, value VARCHAR(8000), request_id VARCHAR(50) NOT NULL, CONSTRAINT trace_tag_pk PRIMARY KEY
    (request_id, "key"), FOREIGN KEY(request_id) REFERENCES trace_info (request_id) ON DELETE CASCADE );
CREATE TABLE trace_request_metadata ( "key" VARCHAR(250) NOT NULL, value VARCHAR(8000), request_id VARCHAR(50) NOT NULL, CONSTRAINT
    trace_request_metadata_pk PRIMARY KEY (request_id, "key"), FOREIGN KEY(request_id) REFERENCES trace_info (request_id) ON DELETE CASCADE );
CREATE TABLE spans ( trace_id VARCHAR(50) NOT NULL, experiment_id INTEGER NOT NULL, span_id VARCHAR(50) NOT NULL, parent_span_id VARCHAR(50), name
    TEXT, type VARCHAR(500), status VARCHAR(50) NOT NULL, start_time_unix_nano BIGINT NOT NULL, end_time_unix_nano BIGINT, duration_ns BIGINT
    GENERATED ALWAYS AS (end_time_unix_nano - start_time_unix_nano) STORED, content TEXT NOT NULL, input_cost FLOAT, output_cost FLOAT, total_cost
    FLOAT, model_name VARCHAR(500), model_provider VARCHAR(500), CONSTRAINT spans_pk PRIMARY KEY (trace_id, span_id), CONSTRAINT fk_spans_trace_id
    FOREIGN KEY(trace_id) REFERENCES trace_info (request_id) ON DELETE CASCADE, CONSTRAINT fk_spans_experiment_id FOREIGN KEY(experiment_id)
    REFERENCES experiments (experiment_id) );
CREATE TABLE assessments ( assessment_id VARCHAR(50) NOT NULL, trace_id VARCHAR(50) NOT NULL, name VARCHAR(250) NOT NULL, assessment_type VARCHAR(50)
    NOT NULL, value TEXT NOT NULL, error TEXT, created_timestamp BIGINT NOT NULL, last_updated_timestamp BIGINT NOT NULL, experiment_id INTEGER,
    trace_timestamp_ms BIGINT, aggregate_value FLOAT, is_numeric_value BOOLEAN DEFAULT 0 NOT NULL, source_type VARCHAR(50) NOT NULL, source_id
    VARCHAR(250), run_id VARCHAR(32), span_id VARCHAR(50), rationale TEXT, overrides VARCHAR(50), valid BOOLEAN NOT NULL, assessment_metadata TEXT,
    CONSTRAINT assessments_pkey PRIMARY KEY (assessment_id), FOREIGN KEY(trace_id) REFERENCES trace_info (request_id) ON DELETE CASCADE );
CREATE TABLE entity_associations ( association_id VARCHAR(36) NOT NULL, source_type VARCHAR(36) NOT NULL, source_id VARCHAR(36) NOT NULL,
    destination_type VARCHAR(36) NOT NULL, destination_id VARCHAR(36) NOT NULL, created_time BIGINT, CONSTRAINT entity_associations_pk PRIMARY KEY
    (source_type, source_id, destination_type, destination_id) );
CREATE TABLE evaluation_datasets ( dataset_id VARCHAR(36) NOT NULL, workspace VARCHAR(63) DEFAULT 'default' NOT NULL, name VARCHAR(255) NOT NULL,
    schema TEXT, profile TEXT, digest VARCHAR(64), created_time BIGINT, last_update_time BIGINT, created_by VARCHAR(255), last_updated_by
    VARCHAR(255), CONSTRAINT evaluation_datasets_pk PRIMARY KEY (dataset_id) );
CREATE TABLE evaluation_dataset_tags ( dataset_id VARCHAR(36) NOT NULL, "key" VARCHAR(255) NOT NULL, value VARCHAR(5000), CONSTRAINT
    evaluation_dataset_tags_pk PRIMARY KEY (dataset_id, "key"), CONSTRAINT fk_evaluation_dataset_tags_dataset_id FOREIGN KEY(dataset_id) REFERENCES
    evaluation_datasets (dataset_id) ON DELETE CASCADE, FOREIGN KEY(dataset_id) REFERENCES evaluation_datasets (dataset_id) ON DELETE CASCADE );
CREATE TABLE evaluation_dataset_records ( dataset_record_id VARCHAR(36) NOT NULL, dataset_id VARCHAR(36) NOT NULL, inputs JSON NOT NULL, outputs JSON,
    expectations JSON, tags JSON, source JSON, source_id VARCHAR(36), source_type VARCHAR(255), created_time BIGINT, last_update_time BIGINT,
    created_by VARCHAR(255), last_updated_by VARCHAR(255), input_hash VARCHAR(64) NOT NULL, CONSTRAINT evaluation_dataset_records_pk PRIMARY KEY
    (dataset_record_id), CONSTRAINT unique_dataset_input UNIQUE (dataset_id, input_hash), CONSTRAINT fk_evaluation_dataset_records_dataset_id FOREIGN
    KEY(dataset_id) REFERENCES evaluation_datasets (dataset_id) ON DELETE CASCADE, FOREIGN KEY(dataset_id) REFERENCES evaluation_datasets (dataset_id)
    ON DELETE CASCADE );
CREATE TABLE scorers ( experiment_id INTEGER NOT NULL, scorer_name VARCHAR(256) NOT NULL, scorer_id VARCHAR(36) NOT NULL, CONSTRAINT scorer_pk PRIMARY
    KEY (scorer_id), FOREIGN KEY(experiment_id) REFERENCES experiments (experiment_id) ON DELETE CASCADE );
CREATE TABLE scorer_versions ( scorer_id VARCHAR(36) NOT NULL, scorer_version INTEGER NOT NULL, serialized_scorer TEXT NOT NULL, creation_time BIGINT,
    CONSTRAINT scorer_version_pk PRIMARY KEY (scorer_id, scorer_version), FOREIGN KEY(scorer_id) REFERENCES scorers (scorer_id) ON DELETE CASCADE );
CREATE TABLE webhooks ( workspace VARCHAR(63) DEFAULT 'default' NOT NULL, webhook_id VARCHAR(256) NOT NULL, name VARCHAR(256) NOT NULL, description
    VARCHAR(1000), url VARCHAR(500) NOT NULL, status VARCHAR(20) NOT NULL, secret VARCHAR(1000), creation_timestamp BIGINT, last_updated_timestamp
    BIGINT, deleted_timestamp BIGINT, CONSTRAINT webhook_pk PRIMARY KEY (webhook_id) );
CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY);
