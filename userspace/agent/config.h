/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * config: the agent's configuration file (agent.conf) as a struct. Read once at start.
 */
#ifndef REPROTECT_AGENT_CONFIG_H
#define REPROTECT_AGENT_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define AGENT_DISKS_MAX 64
#define AGENT_CONFIG_PATH "/etc/reprotect/agent.conf"

enum config_commit { CONFIG_COMMIT_APPLIED, CONFIG_COMMIT_SPOOLED };
enum config_io { CONFIG_IO_AUTO, CONFIG_IO_URING, CONFIG_IO_LIBAIO };

struct config_disk {
	char *name; /* from the section's title */
	char *device;
	uint64_t granule_bytes;
	char *store; /* none, auto, a path; NULL: as the agent's */
};

struct config {
	char *process_server;
	char *machine_id; /* NULL: derived */
	char *host;	  /* NULL: the machine's */
	char *state_dir;
	char *control;
	char *module; /* NULL: looked up */
	uint64_t interval_ms;
	bool consistent;
	uint64_t preserve_budget;
	uint64_t app_tag_interval_ms; /* 0: none by schedule */
	char *app_dir;
	uint64_t script_timeout_ms, freeze_timeout_ms;
	char *freeze_skip; /* NULL, or mount points between spaces */
	uint64_t ack_timeout_ms;
	uint64_t slice_bytes;
	uint64_t granule_bytes;
	char *store; /* of disks that do not say: none, auto */
	int commit_on; /* enum config_commit */
	int io;	       /* enum config_io */
	struct config_disk disks[AGENT_DISKS_MAX];
	size_t disk_count;
};

/** config_load - read @path; NULL: the usual one, and defaults when that is missing */
int config_load(struct config *config, const char *path, char *error, size_t error_bytes);
void config_free(struct config *config);
/** config_store_valid - none, auto or an absolute path that fits; NULL: not said */
bool config_store_valid(const char *store);

#endif
