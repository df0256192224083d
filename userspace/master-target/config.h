/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * config: what an operator can set for the master target, and its bounds. Read once at
 * start through conf.h; main.c owns the struct, everyone else reads it.
 */
#ifndef MASTER_TARGET_CONFIG_H
#define MASTER_TARGET_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "retention.h"

#define CONFIG_PATH_DEFAULT "/etc/reprotect/master-target.conf"

/**
 * struct config_target - a section [target <machine>/<disk>]
 * @name: "<machine>/<disk>", machine being a host name or a uuid
 * @path: block device or image file that receives the disk
 * @overwrite: use it although something else is recorded on it
 */
struct config_target {
	char *name;
	char *path;
	bool overwrite;
	struct config_target *next;
};

struct config {
	char *listen;
	char *state_dir;
	char *control;
	char *target_dir;
	bool create;
	uint64_t buffer_bytes;
	uint64_t max_epoch_bytes;
	uint64_t max_machines;
	int engine;
	char *retention; /* directory of the undo logs; NULL: none */
	struct retention_policy policy;
	int retention_full;
	struct config_target *targets;
};

enum config_full { CONFIG_FULL_DROP, CONFIG_FULL_PAUSE };
enum config_engine { CONFIG_ENGINE_AUTO, CONFIG_ENGINE_IO_URING, CONFIG_ENGINE_LIBAIO };

/**
 * config_load - read @path, or the defaults when it is NULL
 * Return: 0, or negative errno with a message that names file, key and remedy in @error.
 */
int config_load(struct config *config, const char *path, char *error, size_t error_bytes);
void config_free(struct config *config);

/** config_target_find - the section for @disk of a machine named @host or @uuid; NULL: none */
const struct config_target *config_target_find(const struct config *config, const char *uuid,
					       const char *host, const char *disk);

#endif
