/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * server: the structs that the files of the process server share. One thread, one event loop.
 *
 *	config.c      what the operator asked for
 *	server.c      start, end, the list of machines, state.json, the one-second tick
 *	upstream.c    connections of agents
 *	downstream.c  the connection of each machine to the master target
 *	status.c      the control socket
 *	spool*.c      the durable queue
 *
 * Memory for a machine: window_bytes (default 8 MiB) while it receives or sends, 4 MiB while it
 * reads back from the spool, 0.5 MiB in its two connections, and 1 MiB while it discards an epoch.
 */
#ifndef PROCESS_SERVER_SERVER_H
#define PROCESS_SERVER_SERVER_H

#include <systemd/sd-event.h>

#include "conn.h"
#include "control.h"
#include "io.h"
#include "spool.h"

#define SERVER_PROGRAM "reprotect-process-server"
#define HELLO_MS 10000u	     /* an agent that has not said HELLO by then is closed */
#define DOWNSTREAM_MS 6000u  /* how long a new machine's agent waits for the master target */
#define NO_ROOM_MS 8000u     /* how long an agent waits for room in mid-epoch before the epoch is dropped */
#define BACKOFF_MIN_MS 500u
#define BACKOFF_MAX_MS 10000u
#define DISKS_MAX 256u

struct config {
	char *listen, *master_target, *spool, *control;
	uint64_t spool_bytes, window_bytes, max_machines;
	bool direct_io;
	int engine; /* 0 auto, 1 io_uring, 2 libaio */
};

/* An error that was reported, for status. */
struct problem {
	uint64_t wall_ms; /* 0: none */
	char from[32];	  /* "master target", "spool", "agent" */
	char code[32], message[512], remedy[512];
};

/* Bytes in a second, over the last few. */
struct rate {
	uint64_t total, before, per_second;
};

struct disk {
	uint32_t id;
	uint64_t size_bytes;
};

/**
 * enum agent_state - a connection that an agent made
 * HELLO: nothing said yet -> WAIT, READY; WAIT: new machine, the master target is asked -> READY;
 * READY: epochs; GOING: being closed, what comes is ignored
 */
enum agent_state { AGENT_HELLO, AGENT_WAIT, AGENT_READY, AGENT_GOING };

struct agent {
	struct agent *next;
	struct server *server;
	struct conn *conn;
	struct machine *machine; /* from WAIT on */
	enum agent_state state;
	uint64_t since_ms; /* in this state */
	/* the epoch that it is sending */
	bool begun, discard;
	bool fuzzy, tagged; /* of the epoch: as BEGIN said; TAG is here */
	bool blocked;
	uint64_t blocked_ms;
	uint64_t epoch, attempt, digest, data_bytes;
	uint32_t seq;
	uint64_t told_applied; /* the newest epoch acknowledged as applied */
	/* an epoch that was here already, still to be acknowledged as applied */
	uint64_t again_epoch, again_attempt;
	void *scratch;
	char peer[96];
};

/**
 * enum down_state - the way to the master target
 * IDLE: nothing to do; WAIT: backing off -> CONNECTING -> HELLO (sent) -> STREAM; REFUSED: the spool does
 * not follow what the master target has, until the agent has come with a new HELLO
 */
enum down_state { DOWN_IDLE, DOWN_WAIT, DOWN_CONNECTING, DOWN_HELLO, DOWN_STREAM, DOWN_REFUSED };

struct machine {
	struct machine *next;
	struct server *server;
	char uuid[SEGMENT_MACHINE_BYTES + 1];
	char host[128];
	struct spool *spool; /* NULL until the master target has taken a new machine */
	json_t *hello;	     /* the agent's last */
	bool known;	     /* state.json is there */
	bool state_dirty;
	uint64_t state_ms;
	uint64_t target_max_epoch_bytes;
	/* the acknowledgement of a final epoch, kept for an agent that missed it */
	uint64_t final_epoch;
	uint32_t final_flags;
	char *final_text;

	struct disk disks[DISKS_MAX];
	unsigned disk_count;

	struct agent *agent;
	uint64_t committed; /* of its HELLO */

	enum down_state down;
	struct conn *target;
	sd_event_source *timer;
	uint64_t backoff_ms, target_since_ms;
	bool target_heard; /* HELLO_ACK since the last connect */
	uint64_t target_applied;
	sd_event_source *freeing; /* what up to @target_applied is to be freed: downstream.c */
	bool freeing_next;
	struct spool_epoch *at; /* being sent */
	uint64_t at_pos;
	uint64_t sent_pos; /* epochs that end here or before were sent over this connection */
	uint32_t at_seq, skip_until;
	bool at_begun;
	bool pumping;
	uint64_t progress_epoch;
	uint32_t progress_seq;

	struct rate in, out;
	struct problem problem;
};

struct server {
	sd_event *event;
	struct config config;
	struct io_engine *io;
	struct spool_store store;
	struct conn_listener *listener;
	struct control *control;
	struct machine *machines;
	unsigned machine_count;
	struct agent *agents;
	unsigned agent_count;
	sd_event_source *tick;
	uint64_t started_ms, ticked_ms;
	bool stopping;
};

/* config.c */
int config_load(struct config *config, const char *path, char *error, size_t error_bytes);
int config_check(struct config *config, const char *path, char *error, size_t error_bytes);
void config_free(struct config *config);

/* server.c */

/** server_start - all of it; the text of what failed in @error */
int server_start(struct server *server, sd_event *event, char *error, size_t error_bytes);
void server_stop(struct server *server);
struct machine *machine_find(struct server *server, const char *uuid);
struct machine *machine_new(struct server *server, const char *uuid);
/** machine_open - its spool (made when missing) */
int machine_open(struct machine *m, const struct spool_known *known, char *error, size_t error_bytes);
/** machine_hello - take the agent's HELLO over; true: it differs from the last one */
bool machine_hello(struct machine *m, json_t *hello);
/** machine_save - write state.json now */
int machine_save(struct machine *m);
void machine_problem(struct machine *m, const char *from, const char *code, const char *message, const char *remedy);

/* upstream.c */
void upstream_accept(struct conn *conn, void *server);
/** upstream_known - the master target has answered for a new machine, or it cannot be asked (@code) */
void upstream_known(struct machine *m, const char *code, const char *message, const char *remedy);
void upstream_complete(struct machine *m, const struct spool_epoch *epoch);
void upstream_applied(struct machine *m, const struct wire_frame *ack, const void *payload);
/** upstream_caught_up - the master target had more than was known: acknowledge what the agent waits for */
void upstream_caught_up(struct machine *m);
/** upstream_error - pass an error on to the agent; @close: and close */
void upstream_error(struct machine *m, uint64_t epoch, const char *code, const char *message, const char *remedy, bool close);
void upstream_space(struct machine *m);
void upstream_failed(struct machine *m, const struct spool_epoch *epoch, int error);
void upstream_tick(struct agent *agent, uint64_t now_ms);
void upstream_close(struct agent *agent);

/* downstream.c */
/** downstream_want - connect or go on, if there is something to do */
void downstream_want(struct machine *m);
void downstream_pump(struct machine *m);
void downstream_stop(struct machine *m);
/** downstream_restart - connect anew (another HELLO, a reset spool) */
void downstream_restart(struct machine *m);
const char *downstream_name(const struct machine *m);

/* status.c */
json_t *status_answer(const char *command, const json_t *request, void *server);
/** status_line - for sd_notify */
void status_line(const struct server *server, char *out, size_t bytes);

#endif
