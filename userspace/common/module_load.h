/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * module_load: loading an installed kernel module, with what it needs, by libkmod.
 */
#ifndef REPROTECT_MODULE_LOAD_H
#define REPROTECT_MODULE_LOAD_H

struct kmod_ctx;

/** module_load - load the module @name. 0 (also when it is there already); -ENOENT: this kernel has none; negative errno */
int module_load(struct kmod_ctx *context, const char *name);

#endif
