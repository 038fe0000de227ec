"""All that this project uses of DeepSpeed beyond its documented interface, written for DeepSpeed 0.19 from 0.19.8 on.

Elsewhere only `deepspeed`, `deepspeed.accelerator` and the documented methods of an engine are used, which
`tests/pipeline/deepspeed/test_adapter.py` checks. `engine` refuses any other release, and one without the names that `norms`
replaces.

| module | uses | because | a change fails |
|---|---|---|---|
| `engine` | `groups._ZERO_PARAM_INTRA_PARALLEL_GROUP` | hpZ's groups outlive a model | test_parity (4 ranks) |
| `engine` | `_config`, `micro_steps`, `gradient_accumulation_steps` | stages divide a batch otherwise | test_steps |
| `engine` | where `zero.Init` puts tensors | it rounds rotary frequencies | test_rotary |
| `masters` | the optimizers' flat groups, `grad_position` | growth fills fp32 masters | test_zero_sink |
| `masters` | `ds_tensor`, `ds_numel` | growth fills partitions of weights | test_zero_sink, test_inference |
| `masters` | swapping of sub-groups, `invalidate_secondary_tensor` | masters on a disk; hpZ | test_zero_sink, test_parity |
| `norms` | `NAMES` there | a norm without a wait for the device | test_steps, test_parity |
| `norms`, `loss_scale` | `_global_grad_norm`, `loss_scaler`, `overflow` | steps are skipped by the norm | test_guard |
| `loss_scale` | the scale's and the engine's counters | a run goes on with them | test_loss_scale |
| `traces` | `PartitionedParameterCoordinator`'s recorded order | sub-models change it each step | test_running |
| `engine` | `unscale_and_clip_grads`, where gradients are swapped | frozen masters on a disk | test_zero_sink, test_parity |
| `saving` | `checkpoint_engine`, `_copy_recovery_script` | files are hashed when written | test_going_on |
| `saving` | swap files, `state_dict` | checkpoints of what lies on a disk | test_zero_sink |
| `config` | the models of JSON sections, `DeepSpeedConfig` | a file is refused before a run | test_ds_config |
| `kernels` | builders of CPU Adam and async_io, the Triton loss | they may not compile | test_losses, test_optimizer |
| `ranks` | `__compatible_ops__`, `mpi_discovery` | no compilation at the start; mpirun | test_launchers |
| `monitors` | the four monitors and their configurations | a run has one set of curves | test_monitors |
| `zero_layout` | how ZeRO divides parameters | checkpoints and growth by slices | test_zero_layout |

`zero_layout` and `release` import nothing of DeepSpeed.
"""
