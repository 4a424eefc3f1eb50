/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The attacks: name, class, what it does, function. heki_attack.h makes the prototypes of
 * this list, main.c the table; each defines ATTACK first.
 *
 * To add one: its function in a file of this folder, a line here, and its name in
 * tools/testing/selftests/heki/attacks.toml.
 */
ATTACK("text-direct-map", ATTACK_WRITE, "write text through the direct map made writable",
       attack_text_direct_map)
ATTACK("text-vmap", ATTACK_WRITE, "write text through a vmap alias", attack_text_vmap)
ATTACK("text-fixmap", ATTACK_WRITE, "write text through a slot of the fixmap", attack_text_fixmap)
ATTACK("text-split-mapping", ATTACK_WRITE, "split and rebuild the large page mapping of text, write each time",
       attack_text_split)
ATTACK("rodata", ATTACK_WRITE, "write read-only data made writable in place", attack_rodata)
ATTACK("ro-after-init", ATTACK_WRITE, "write a ro_after_init variable made writable in place",
       attack_ro_after_init)
ATTACK("module-text", ATTACK_WRITE, "write module text made writable in place", attack_module_text)
ATTACK("idt", ATTACK_WRITE, "write the interrupt table through the direct map made writable",
       attack_idt)
ATTACK("trampoline", ATTACK_WRITE, "write the code that starts CPUs, likewise", attack_trampoline)
ATTACK("exec-vmalloc", ATTACK_EXEC, "run a fresh vmalloc page made executable", attack_exec_vmalloc)
ATTACK("exec-data", ATTACK_EXEC, "run code placed in .data", attack_exec_data)
ATTACK("exec-new-memory", ATTACK_EXEC, "run code placed in memory that the kernel did not have at the seal",
       attack_exec_new_memory)
ATTACK("exec-user-alias", ATTACK_EXEC, "run a user page through its supervisor alias",
       attack_exec_user_alias)
ATTACK("exec-user-smep", ATTACK_EXEC, "run a user page with SMEP cleared", attack_exec_user_smep)
ATTACK("cr0-ne", ATTACK_CR, "clear CR0.NE on every vCPU", attack_cr0_ne)
ATTACK("cr0-wp", ATTACK_CR, "clear CR0.WP on every vCPU", attack_cr0_wp)
ATTACK("cr0-am", ATTACK_CR, "clear CR0.AM on every vCPU", attack_cr0_am)
ATTACK("cr4-smep", ATTACK_CR, "clear CR4.SMEP on every vCPU", attack_cr4_smep)
ATTACK("cr4-smap", ATTACK_CR, "clear CR4.SMAP on every vCPU", attack_cr4_smap)
ATTACK("cr4-umip", ATTACK_CR, "clear CR4.UMIP on every vCPU", attack_cr4_umip)
ATTACK("cr4-fsgsbase", ATTACK_CR, "clear CR4.FSGSBASE on every vCPU", attack_cr4_fsgsbase)
ATTACK("cr4-cet", ATTACK_CR, "clear CR4.CET on every vCPU", attack_cr4_cet)
ATTACK("idtr", ATTACK_DT, "move the interrupt table on every vCPU", attack_idtr)
ATTACK("gdtr", ATTACK_DT, "move the segment table on every vCPU", attack_gdtr)
ATTACK("idtr-limit", ATTACK_DT, "cut the interrupt table on every vCPU", attack_idtr_limit)
ATTACK("gdtr-limit", ATTACK_DT, "cut the segment table on every vCPU", attack_gdtr_limit)
ATTACK("ldtr", ATTACK_DT, "load a local segment table from another entry on every vCPU",
       attack_ldtr)
ATTACK("tr", ATTACK_DT, "load another task state segment on every vCPU", attack_tr)
ATTACK("xcr0", ATTACK_MSR, "change XCR0 on every vCPU", attack_xcr0)
ATTACK("efer-sce", ATTACK_MSR, "clear EFER.SCE on every vCPU", attack_efer)
ATTACK("star", ATTACK_MSR, "change STAR on every vCPU", attack_star)
ATTACK("lstar", ATTACK_MSR, "move the entry of system calls on every vCPU", attack_lstar)
ATTACK("cstar", ATTACK_MSR, "change CSTAR on every vCPU", attack_cstar)
ATTACK("sfmask", ATTACK_MSR, "have system calls enter with interrupts on on every vCPU",
       attack_sfmask)
ATTACK("sysenter-cs", ATTACK_MSR, "change SYSENTER_CS on every vCPU", attack_sysenter_cs)
ATTACK("sysenter-esp", ATTACK_MSR, "move the stack of SYSENTER on every vCPU", attack_sysenter_esp)
ATTACK("sysenter-eip", ATTACK_MSR, "move the entry of SYSENTER on every vCPU", attack_sysenter_eip)
ATTACK("pat", ATTACK_MSR, "change the PAT on every vCPU", attack_pat)
ATTACK("apic-base", ATTACK_MSR, "move the APIC on every vCPU", attack_apic_base)
ATTACK("misc-enable", ATTACK_MSR, "change MISC_ENABLE on every vCPU", attack_misc_enable)
ATTACK("xss", ATTACK_MSR, "change XSS on every vCPU", attack_xss)
ATTACK("s-cet", ATTACK_MSR, "change S_CET on every vCPU", attack_s_cet)
ATTACK("pl0-ssp", ATTACK_MSR, "set a supervisor shadow stack on every vCPU", attack_pl0_ssp)
ATTACK("pl1-ssp", ATTACK_MSR, "likewise of ring 1", attack_pl1_ssp)
ATTACK("pl2-ssp", ATTACK_MSR, "likewise of ring 2", attack_pl2_ssp)
ATTACK("ssp-table", ATTACK_MSR, "move the table of interrupts' shadow stacks on every vCPU",
       attack_ssp_table)
ATTACK("feature-control", ATTACK_MSR, "change FEATURE_CONTROL on every vCPU",
       attack_feature_control)
ATTACK("vm-cr", ATTACK_MSR, "change VM_CR on every vCPU", attack_vm_cr)
ATTACK("tsx-ctrl", ATTACK_MSR, "change TSX_CTRL on every vCPU", attack_tsx_ctrl)
ATTACK("de-cfg", ATTACK_MSR, "have LFENCE not serialize on every vCPU", attack_de_cfg)
ATTACK("patch-unlisted", ATTACK_WRITE, "have the host change text where no site is",
       attack_patch_unlisted)
ATTACK("patch-target", ATTACK_WRITE, "have the host make a jump label jump elsewhere",
       attack_patch_target)
ATTACK("patch-truncated", ATTACK_WRITE, "have the host change half of an instruction",
       attack_patch_truncated)
ATTACK("patch-shifted", ATTACK_WRITE, "have the host change a site from its second byte on",
       attack_patch_shifted)
ATTACK("patch-across", ATTACK_WRITE, "have the host change text across two pages",
       attack_patch_across)
ATTACK("patch-int3", ATTACK_WRITE, "have the host put a breakpoint at a site", attack_patch_int3)
ATTACK("patch-old", ATTACK_WRITE, "have the host change a site that holds something else",
       attack_patch_old)
ATTACK("patch-replay", ATTACK_WRITE, "have the host make a change a second time",
       attack_patch_replay)
ATTACK("patch-batch", ATTACK_WRITE, "have the host take one bad change among 255 good ones",
       attack_patch_batch)
ATTACK("patch-race", ATTACK_WRITE, "change a request while the host looks at it", attack_patch_race)
ATTACK("patch-frozen", ATTACK_WRITE, "have the host flip a key that the VMM froze",
       attack_patch_frozen)
ATTACK("jump-forged", ATTACK_WRITE, "have the kernel flip such a key through a forged jump entry",
       attack_jump_forged)
ATTACK("patch-rodata", ATTACK_WRITE, "have the host change read-only data", attack_patch_rodata)
ATTACK("patch-data", ATTACK_WRITE, "have the host change data as if it were text",
       attack_patch_data)
ATTACK("call-middle", ATTACK_WRITE, "have the host make a static call call the middle of a function",
       attack_call_middle)
ATTACK("call-type", ATTACK_WRITE, "have the host make a static call call a function of another type",
       attack_call_type)
ATTACK("release-text", ATTACK_WRITE, "have the host make text writable", attack_release_text)
ATTACK("grant-code", ATTACK_EXEC, "have the host let a page of code run", attack_grant_code)
ATTACK("grant-pool", ATTACK_EXEC, "have the host let a page of the pool run with other content",
       attack_grant_pool)
ATTACK("grant-trampoline", ATTACK_EXEC, "have the host let a forged trampoline of ftrace run",
       attack_grant_trampoline)
ATTACK("grant-race", ATTACK_EXEC, "write a page of the pool while the host looks at it",
       attack_grant_race)
ATTACK("disk-text", ATTACK_WRITE, "have the disk read into text", attack_disk_text)
ATTACK("neighbour", ATTACK_ALLOWED, "write a page in the same 2 MiB frame as a sealed one",
       attack_neighbour)

#undef ATTACK
