/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * machine: one protected machine: its state, its targets, its apply, and the connection
 * that serves it. session.c brings connections; status.c reads it.
 *
 * A new connection replaces an old one (the newest wins), but it is answered only when nothing of
 * the old one is in flight any more: an old write must not land after a new one.
 */
#ifndef MASTER_TARGET_MACHINE_H
#define MASTER_TARGET_MACHINE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <systemd/sd-event.h>

#include "apply.h"
#include "config.h"
#include "conn.h"
#include "fault.h"
#include "job.h"
#include "pool.h"
#include "state.h"
#include "target.h"
#include "undo.h"
#include "undo_log.h"

struct machine;
struct session;

/* A disk as the HELLO describes it. */
struct hello_disk {
	char name[STATE_NAME_BYTES];
	uint32_t id;
	uint64_t source_bytes;
};

struct hello {
	char uuid[STATE_NAME_BYTES];
	char host[STATE_NAME_BYTES];
	uint64_t committed;
	struct hello_disk disks[STATE_DISKS_MAX];
	size_t disk_count;
};

/**
 * struct server - what all machines share
 * @sessions: connections that are open, in any state
 */
struct server {
	struct config config;
	sd_event *event;
	struct io_engine *io;
	int lock; /* of the state directory */
	struct pool *pool;
	struct machine *machines;
	struct conn_listener *listener;
	sd_event_source *tick;
	unsigned sessions;
	struct session *session_list;
	struct thin *thin;
	bool ending;
};

/**
 * struct machine - a protected machine
 * @live: the connection that feeds it, or NULL
 * @waiting: a newer one, until the I/O of the old has ended
 * @saved: it has a state on the disk
 * @damaged: that state cannot be read (@last says why)
 * @last: what failed last; @failing: and it still does
 * @logged: @log is open, and apply writes to it through @undo
 * @job: what the machine does to its targets by itself
 */
struct machine {
	struct server *server;
	struct machine *next;
	struct state state;
	bool saved, damaged, failing;
	struct fault last;
	struct target *targets;
	size_t target_count;
	struct apply apply;
	struct pool_client client;
	struct undo undo;
	struct undo_log log;
	bool logged;
	struct job job;
	struct session *live, *waiting;
	uint64_t waiting_since_ms;
	uint64_t stuck_said_ms;
	uint64_t rate_bytes, rate_ms, rate; /* bytes per second, lately */
	char name[STATE_NAME_BYTES];	    /* host, or uuid: for messages */
};

/** machines_load - all that the state directory knows. Damaged ones are kept as such. 0 or negative errno */
int machines_load(struct server *server);
/** machines_free - wait for nothing: only after the I/O engine is gone */
void machines_free(struct server *server);
struct machine *machine_find(const struct server *server, const char *uuid_or_host);
/** machine_get - the machine of @hello, made when new; NULL with @fault: too many, damaged */
struct machine *machine_get(struct server *server, const struct hello *hello, struct fault *fault);
/**
 * machine_open - check and open the targets of @hello, and record them. Only when the apply is quiet.
 * Return: 0, or -1 with @fault.
 */
int machine_open(struct machine *machine, const struct hello *hello, struct fault *fault);
/** machine_open_known - the same for the disks that the state knows, without a HELLO */
int machine_open_known(struct machine *machine, struct fault *fault);
void machine_close_targets(struct machine *machine);
/**
 * machine_log_open - have the undo log open where there is a retention volume (retention_volume.h: it is checked), made at first use
 * Return: 0 (also without retention), or -1 with @fault: the machine has a log, and it cannot be had.
 */
int machine_log_open(struct machine *machine, struct fault *fault);
/** machine_log_remove - remove the undo log from the retention volume, where it is open: the state does not know it any more */
void machine_log_remove(struct machine *machine);
/** machine_drop_points - give up the undo log and all points of the machine, present or lost. 0, or -1 with @fault */
int machine_drop_points(struct machine *machine, struct fault *fault);
/** machine_log_paused - space is short, and the policy is to wait rather than to give up points: no new epoch */
bool machine_log_paused(struct machine *machine);
/** machine_log_full - no space on the retention volume: give up the oldest points, as the policy says */
enum undo_full machine_log_full(struct machine *machine);
/** machine_failed - note what failed, for the status and the log */
void machine_failed(struct machine *machine, const struct fault *fault);
/** machine_save - write its state down, durably. 0, or -1 with @fault */
int machine_save(struct machine *machine, struct fault *fault);
/** machine_forget - drop its state. 0, or -1 with @fault */
int machine_forget(struct machine *machine, struct fault *fault);
void machine_tick(struct machine *machine);

#endif
